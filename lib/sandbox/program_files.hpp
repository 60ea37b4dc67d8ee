#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::sandbox {

/// A file or folder of the host that a jailed program sees, read-only.
struct SeenFile {
  std::filesystem::path path;
  bool execute = false; ///< it, or what is in it, may be executed

  bool operator==(const SeenFile&) const = default;
};

/// What a program needs of the host: itself, its loader and libraries, as the loader finds them
/// now, and where it is an emulator its firmware and modules. A script needs nobody knows what: all
/// programs and libraries. Runs the program's loader. Errors: `sandbox.spawn`.
[[nodiscard]] std::vector<SeenFile> files_of_program(const std::filesystem::path& program);

/// Whether that is all of the system's programs.
[[nodiscard]] bool sees_whole_system(const std::vector<SeenFile>& files);

/// As text, a line each, and back.
[[nodiscard]] std::string encode_files(const std::vector<SeenFile>& files);
[[nodiscard]] std::vector<SeenFile> decode_files(std::string_view text);

} // namespace nixbuild::sandbox
