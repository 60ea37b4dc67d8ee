#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/model/store_path.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace nixbuild::model {

namespace {

/// Paths come from peers and stand in error messages: no more of them than this.
constexpr std::size_t kShownPathBytes = 300;
constexpr std::size_t kStoreDirLimit = 4000;

constexpr std::string_view kNameCharacters =
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._?=";

constexpr auto kIsNameCharacter = [] {
  std::array<bool, 256> table{};
  for (const char c : kNameCharacters) {
    table[static_cast<unsigned char>(c)] = true;
  }
  return table;
}();

[[noreturn]] void reject_path(std::string_view code, std::string message) {
  throw Error(Reaction::Reject, code, std::move(message));
}

std::string_view shown(std::string_view text) {
  return text.substr(0, kShownPathBytes);
}

void check_name(std::string_view name, std::string_view whole) {
  if (name.empty()) {
    reject_path("store-path.name", fmt::format("store path '{}' has no name", shown(whole)));
  }
  if (name.size() > StorePath::kNameLimit) {
    reject_path("store-path.name",
                fmt::format("store path '{}' has a name of {} characters, more than {}",
                            shown(whole),
                            name.size(),
                            StorePath::kNameLimit));
  }
  const auto foreign = std::find_if(name.begin(), name.end(), [](char c) {
    return !kIsNameCharacter[static_cast<unsigned char>(c)];
  });
  if (foreign != name.end()) {
    reject_path("store-path.name",
                fmt::format("the name of store path '{}' has the foreign byte {:#04x}",
                            shown(whole),
                            static_cast<unsigned>(static_cast<unsigned char>(*foreign))));
  }
  if (name == "." || name == ".." || name.starts_with(".-") || name.starts_with("..-")) {
    reject_path(
        "store-path.name",
        fmt::format("the name of store path '{}' is or begins with a dot directory", shown(whole)));
  }
}

} // namespace

StorePath StorePath::parse(std::string_view base_name) {
  if (base_name.size() <= kHashLength || base_name[kHashLength] != '-') {
    reject_path("store-path.hash",
                fmt::format("store path '{}' does not begin with {} characters and a dash",
                            shown(base_name),
                            kHashLength));
  }
  for (std::size_t i = 0; i < kHashLength; ++i) {
    if (!is_nix32(base_name[i])) {
      reject_path("store-path.hash",
                  fmt::format("the hash of store path '{}' has a foreign character at {}",
                              shown(base_name),
                              i));
    }
  }
  check_name(base_name.substr(kHashLength + 1), base_name);
  return StorePath(std::string(base_name));
}

StorePath::StorePath(ByteView digest20, std::string_view name) {
  if (digest20.size() != 20) {
    reject_path("store-path.hash",
                fmt::format("the digest of a store path has {} bytes, not 20", digest20.size()));
  }
  check_name(name, name);
  base_name_ = nix32_encode(digest20);
  base_name_ += '-';
  base_name_ += name;
}

bool StorePath::is_derivation() const noexcept {
  return name().ends_with(".drv");
}

void sort_unique(StorePaths& paths) {
  const auto not_ascending = [](const StorePath& a, const StorePath& b) {
    return !(a < b);
  };
  if (std::adjacent_find(paths.begin(), paths.end(), not_ascending) == paths.end()) {
    return; // What well-behaved peers send: no moves.
  }
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
}

StoreDir::StoreDir(std::string dir) : dir_(std::move(dir)) {
  if (dir_.size() > kStoreDirLimit) {
    reject_path(
        "store-dir.invalid",
        fmt::format("a store directory of {} bytes exceeds {}", dir_.size(), kStoreDirLimit));
  }
  const std::string closed = dir_ + '/';
  const bool bad = dir_.size() < 2 || dir_.front() != '/' || dir_.back() == '/' ||
                   dir_.find('\0') != std::string::npos || closed.find("//") != std::string::npos ||
                   closed.find("/./") != std::string::npos ||
                   closed.find("/../") != std::string::npos;
  if (bad) {
    reject_path("store-dir.invalid",
                fmt::format("'{}' is not an absolute, plain directory", shown(dir_)));
  }
}

std::string StoreDir::print(const StorePath& path) const {
  std::string out;
  out.reserve(dir_.size() + 1 + path.base_name().size());
  out += dir_;
  out += '/';
  out += path.base_name();
  return out;
}

StorePath StoreDir::parse(std::string_view full_path) const {
  const bool inside = full_path.size() > dir_.size() && full_path.starts_with(dir_) &&
                      full_path[dir_.size()] == '/';
  if (!inside || full_path.find('/', dir_.size() + 1) != std::string_view::npos) {
    reject_path("store-path.outside",
                fmt::format("path '{}' does not lie directly in '{}'", shown(full_path), dir_));
  }
  return StorePath::parse(full_path.substr(dir_.size() + 1));
}

Bytes compress_hash(ByteView digest, std::size_t size) {
  Bytes out(size);
  for (std::size_t i = 0; i < digest.size(); ++i) {
    out[i % size] = static_cast<std::uint8_t>(out[i % size] ^ digest[i]);
  }
  return out;
}

StorePath make_store_path(const StoreDir& dir,
                          std::string_view type,
                          const Hash& inner,
                          std::string_view name) {
  const std::string text = fmt::format("{}:{}:{}:{}:{}",
                                       type,
                                       name_of(inner.algorithm()),
                                       hex_encode(inner.bytes()),
                                       dir.text(),
                                       name);
  const Hash digest = hash_of(HashAlgorithm::Sha256, bytes_of(text));
  return StorePath(compress_hash(digest.bytes()), name);
}

StorePath make_text_path(const StoreDir& dir,
                         std::string_view name,
                         const Hash& contents_sha256,
                         const StorePaths& references) {
  std::string type = "text";
  for (const auto& reference : references) {
    type += ':';
    type += dir.print(reference);
  }
  return make_store_path(dir, type, contents_sha256, name);
}

} // namespace nixbuild::model
