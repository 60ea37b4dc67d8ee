#pragma once

#include <nixbuild/nar/event.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::nar {

/// What reader and writer check alike: names, their order, targets, depth, number of nodes.
/// `offset` is where in the archive the checked thing begins; messages name it.
class TreeRules {
public:
  explicit TreeRules(const Limits& limits) : limits_(limits) {}

  [[nodiscard]] const Limits& limits() const noexcept { return limits_; }

  /// Directories that are open.
  [[nodiscard]] std::size_t level() const noexcept { return level_; }

  void node(std::uint64_t offset) {
    if (++nodes_ > limits_.entries) {
      too_many(offset);
    }
  }

  void enter_directory();

  void leave_directory() noexcept { --level_; }

  void name_length(std::uint64_t length, std::uint64_t offset) const {
    if (length > limits_.name_bytes) {
      name_too_long(length, offset);
    }
  }

  /// A whole name in the innermost open directory.
  void name(std::string_view name, std::uint64_t offset);
  void target_length(std::uint64_t length, std::uint64_t offset) const;
  void target(std::string_view target, std::uint64_t offset) const;

  /// `size` more bytes at `offset` must not lead beyond the largest archive.
  void total(std::uint64_t offset, std::uint64_t size) const {
    if (offset > limits_.total_bytes || size > limits_.total_bytes - offset) {
      too_large(offset, size);
    }
  }

private:
  [[noreturn]] void too_many(std::uint64_t offset) const;
  [[noreturn]] void too_large(std::uint64_t offset, std::uint64_t size) const;
  [[noreturn]] void name_too_long(std::uint64_t length, std::uint64_t offset) const;

  Limits limits_;
  std::uint64_t nodes_ = 0;
  std::size_t level_ = 0;
  /// The last name of each open directory; strings of closed ones are kept for their memory.
  std::vector<std::string> last_names_;
};

} // namespace nixbuild::nar
