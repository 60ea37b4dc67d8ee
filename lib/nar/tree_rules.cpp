#include "nar/tree_rules.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>

#include <fmt/format.h>

namespace nixbuild::nar {

namespace {

/// A name for a message: printable as it is, anything else in hex.
std::string shown(std::string_view name) {
  for (const char c : name) {
    if (c < ' ' || c > '~') {
      return "0x" + hex_encode(bytes_of(name));
    }
  }
  return fmt::format("'{}'", name);
}

} // namespace

bool valid_name(std::string_view name) noexcept {
  if (name.empty() || name == "." || name == "..") {
    return false;
  }
  bool valid = true;
  for (const char c : name) {
    valid &= c != '/' && c != '\0';
  }
  return valid;
}

void TreeRules::enter_directory() {
  if (last_names_.size() == level_) {
    last_names_.emplace_back();
  }
  last_names_[level_].clear();
  ++level_;
}

void TreeRules::name(std::string_view name, std::uint64_t offset) {
  name_length(name.size(), offset);
  if (!valid_name(name)) {
    throw Error(Reaction::Reject,
                "nar.name",
                fmt::format("entry name {} at byte {} of the archive is not a file name",
                            shown(name),
                            offset));
  }
  auto& last = last_names_[level_ - 1];
  if (name <= last) {
    throw Error(
        Reaction::Reject,
        "nar.unsorted-entry",
        fmt::format(
            "entry {} at byte {} of the archive comes after {}", shown(name), offset, shown(last)));
  }
  if (level_ >= limits_.depth) {
    throw Error(Reaction::Reject,
                "nar.depth",
                fmt::format("entry {} at byte {} of the archive is deeper than {} levels",
                            shown(name),
                            offset,
                            limits_.depth));
  }
  last.assign(name);
}

void TreeRules::target_length(std::uint64_t length, std::uint64_t offset) const {
  if (length > limits_.target_bytes) {
    throw Error(Reaction::Reject,
                "nar.target",
                fmt::format("symlink target of {} bytes at byte {} of the archive exceeds {}",
                            length,
                            offset,
                            limits_.target_bytes));
  }
}

void TreeRules::target(std::string_view target, std::uint64_t offset) const {
  target_length(target.size(), offset);
  if (target.empty() || target.find('\0') != std::string_view::npos) {
    throw Error(Reaction::Reject,
                "nar.target",
                fmt::format("symlink target at byte {} of the archive is {}",
                            offset,
                            target.empty() ? "empty" : "not free of NUL"));
  }
}

void TreeRules::too_many(std::uint64_t offset) const {
  throw Error(Reaction::Reject,
              "nar.limit",
              fmt::format("archive has more than {} nodes (at byte {})", limits_.entries, offset));
}

void TreeRules::too_large(std::uint64_t offset, std::uint64_t size) const {
  throw Error(Reaction::Reject,
              "nar.limit",
              fmt::format("{} bytes at byte {} of the archive lead beyond the limit of {} bytes",
                          size,
                          offset,
                          limits_.total_bytes));
}

void TreeRules::name_too_long(std::uint64_t length, std::uint64_t offset) const {
  throw Error(Reaction::Reject,
              "nar.name",
              fmt::format("entry name of {} bytes at byte {} of the archive exceeds {}",
                          length,
                          offset,
                          limits_.name_bytes));
}

} // namespace nixbuild::nar
