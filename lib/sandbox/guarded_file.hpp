#pragma once

#include <nixbuild/base/descriptor.hpp>

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>

namespace nixbuild::sandbox {

/// A file that every machine is given and none may change, with the hash that it has to have. Where
/// the emulators run as the same user as the daemon, walls alone keep them from writing it; this
/// notices when they did not.
class GuardedFile {
public:
  GuardedFile() = default;
  /// Opens and hashes it. Errors: `sandbox.kernel-cache` (cannot be read, another hash).
  GuardedFile(std::filesystem::path path, std::string sha256);

  /// A descriptor for one machine. Looks at the file's times and size, which nobody can set back
  /// without privileges, and hashes it again where they have changed. Errors:
  /// `sandbox.kernel-cache`. Thread safe.
  [[nodiscard]] UniqueFd open_for_machine();

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

private:
  struct Mark {
    ino_t inode = 0;
    off_t size = 0;
    std::int64_t modified = 0;
    std::int64_t changed = 0;
    bool operator==(const Mark&) const = default;
  };

  [[nodiscard]] Mark mark() const;
  void check_hash() const;

  std::filesystem::path path_;
  std::string sha256_;
  UniqueFd file_;
  std::mutex mutex_;
  Mark mark_;
};

} // namespace nixbuild::sandbox
