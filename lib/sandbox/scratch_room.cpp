#include <nixbuild/base/bytes.hpp>
#include <nixbuild/sandbox/scratch_room.hpp>

#include <sys/stat.h>

#include <algorithm>

namespace nixbuild::sandbox {

namespace {

constexpr std::uint64_t kForOthers = kGiB;
constexpr std::uint64_t kLeastScratch = 256 * kMiB;
constexpr std::uint64_t kSoonTaken = kGiB;

} // namespace

std::uint64_t scratch_size(std::uint64_t wanted_bytes, std::uint64_t free_bytes) noexcept {
  if (wanted_bytes == 0) {
    return 0;
  }
  const auto room = free_bytes > kForOthers ? (free_bytes - kForOthers) / 2 : 0;
  return std::max(std::min(wanted_bytes, room), kLeastScratch) / kMiB * kMiB;
}

std::uint64_t scratch_to_come(const std::filesystem::path& run_directory) {
  std::uint64_t total = 0;
  std::error_code ignored;
  for (const auto& machine : std::filesystem::directory_iterator(run_directory, ignored)) {
    struct stat info {};

    if (::stat((machine.path() / kScratchName).c_str(), &info) == 0) {
      const auto size = static_cast<std::uint64_t>(info.st_size);
      const auto taken = std::min(size, static_cast<std::uint64_t>(info.st_blocks) * 512);
      total += std::min(size - taken, kSoonTaken);
    }
  }
  return total;
}

} // namespace nixbuild::sandbox
