#pragma once

#include <nixbuild/base/descriptor.hpp>

#include <cstdint>
#include <optional>
#include <string>

namespace nixbuild::sandbox::runner {

/// The disk that takes what a builder writes: a sparse file in the run folder with an empty ext4,
/// which the host takes for bytes from then on.
class ScratchDisk {
public:
  /// Makes it in the working directory by `maker` (mke2fs), some 10 ms. Errors: `sandbox.spawn`.
  ScratchDisk(const std::string& maker, std::uint64_t bytes);

  [[nodiscard]] int fd() const noexcept { return file_.get(); }

  /// Why this machine has to end, where the file system that the disk lies on is about to be full:
  /// the sooner, the more of it this disk has taken.
  [[nodiscard]] std::optional<std::string> host_is_full() const;

private:
  UniqueFd file_;
};

/// The rule behind host_is_full.
[[nodiscard]] bool must_make_room(std::uint64_t free_bytes, std::uint64_t used_bytes) noexcept;

} // namespace nixbuild::sandbox::runner
