#pragma once

#include <nixbuild/sandbox/qemu_executor.hpp>

#include <filesystem>

namespace nixbuild::sandbox {

/// The initramfs of this kernel and these programs, without nixbuild-builtin, beside its kernel
/// under the name of its contents. Made when it is not there. Errors: `sandbox.spawn` (a program
/// cannot be read), `sandbox.initramfs`, `sandbox.kernel-cache`.
[[nodiscard]] std::filesystem::path plain_initramfs(const QemuExecutorSettings& settings,
                                                    const ImportedKernel& kernel);

} // namespace nixbuild::sandbox
