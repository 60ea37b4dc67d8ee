#pragma once

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/descriptor.hpp>

#include <cerrno>
#include <filesystem>
#include <string_view>

namespace nixbuild::store {

/// `system_call` with the codes of this room: `store.disk-full` or `store.io`.
template <class Call>
auto disk_call(std::string_view what, Call&& call) {
  return system_call("store.io", what, [&] {
    const auto result = call();
    if (result == static_cast<decltype(result)>(-1) && (errno == ENOSPC || errno == EDQUOT)) {
      throw_system_error("store.disk-full", what);
    }
    return result;
  });
}

/// Writes all of `bytes` at the end of what was written before.
void write_all(int fd, ByteView bytes, std::string_view what);
void write_all_at(int fd, std::uint64_t offset, ByteView bytes, std::string_view what);
/// Reads exactly `into.size()` bytes; fewer is `store.io`.
void read_exactly_at(int fd, std::uint64_t offset, MutableBytes into, std::string_view what);
[[nodiscard]] std::uint64_t size_of(int fd, std::string_view what);
/// Opens for reading; an empty descriptor when there is no such file.
[[nodiscard]] UniqueFd open_existing(const std::filesystem::path& path);
/// Makes a new directory entry durable.
void sync_directory(const std::filesystem::path& dir);
void make_directories(const std::filesystem::path& dir);
/// Removes a file; its absence is fine and nothing is thrown.
void unlink_quietly(const std::filesystem::path& path) noexcept;
void rename_file(const std::filesystem::path& from, const std::filesystem::path& to);

} // namespace nixbuild::store
