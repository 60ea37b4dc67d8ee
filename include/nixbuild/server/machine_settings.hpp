#pragma once

#include <nixbuild/base/api.hpp>
#include <nixbuild/sandbox/qemu_executor.hpp>
#include <nixbuild/server/config.hpp>

#include <filesystem>

namespace nixbuild::server {

/// How machines are made by a configuration, for the daemon and for whoever tries one beside it.
/// Programs are looked for beside this one. Errors: `program.missing`, `sandbox.accelerator`.
[[nodiscard]] NIXBUILD_API sandbox::QemuExecutorSettings
machine_settings(const Config& config, const std::filesystem::path& state_dir);

} // namespace nixbuild::server
