#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>

/// Small files and folders of a machine that this program has for itself. Every failure is Error
/// `guest.system` and names the path.
namespace nixbuild::guest {

inline constexpr const char* kCode = "guest.system";

/// At most 1 MiB of a file; empty when it does not exist.
[[nodiscard]] std::string read_file(const std::string& path);
/// Makes or replaces a file.
void write_file(const std::string& path, std::string_view contents, mode_t mode);
/// Writes into a file of the kernel's in one call; false when it is not there or refuses.
bool write_kernel_file(const std::string& path, std::string_view contents) noexcept;
void make_folder(const std::string& path, mode_t mode, uid_t owner = 0, gid_t group = 0);
/// With all folders above it.
void make_folders(const std::string& path);
void mount_at(const char* source,
              const std::string& target,
              const char* type,
              unsigned long flags,
              const std::string& options = {});
void write_all(int fd, ByteView bytes);

} // namespace nixbuild::guest
