#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/git_digest.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nixbuild::nar {

namespace {

struct Entry {
  std::string_view mode;
  std::string name;
  Hash hash;

  /// Git sorts a directory as if its name ended with a slash.
  [[nodiscard]] std::string key() const { return mode == "40000" ? name + "/" : name; }
};

Hasher begin_object(HashAlgorithm algorithm, std::string_view type, std::uint64_t size) {
  Hasher hasher(algorithm);
  std::string head(type);
  head += ' ';
  head += std::to_string(size);
  head += '\0';
  hasher.update(bytes_of(head));
  return hasher;
}

Hash hash_tree(HashAlgorithm algorithm, std::vector<Entry> entries) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.key() < b.key();
  });
  std::string body;
  for (const auto& entry : entries) {
    body += entry.mode;
    body += ' ';
    body += entry.name;
    body += '\0';
    body += text_of(entry.hash.bytes());
  }
  auto hasher = begin_object(algorithm, "tree", body.size());
  hasher.update(bytes_of(body));
  return hasher.finish();
}

} // namespace

struct GitDigest::State {
  explicit State(HashAlgorithm of) : algorithm(of) {}

  void add(std::string_view mode, const Hash& hash) {
    if (open.empty()) {
      root = hash;
    } else {
      open.back().push_back({mode, std::exchange(names.back(), std::string()), hash});
    }
  }

  HashAlgorithm algorithm;
  std::vector<std::vector<Entry>> open; ///< directories, the innermost last
  std::vector<std::string> names;       ///< of the entry that comes next in each of them
  std::optional<Hasher> file;
  bool executable = false;
  std::optional<Hash> root;
};

GitDigest::GitDigest(HashAlgorithm algorithm) : state_(std::make_unique<State>(algorithm)) {}

GitDigest::~GitDigest() = default;
GitDigest::GitDigest(GitDigest&&) noexcept = default;

void GitDigest::regular(bool executable, std::uint64_t size) {
  state_->executable = executable;
  state_->file.emplace(begin_object(state_->algorithm, "blob", size));
}

void GitDigest::contents(ByteView bytes) {
  state_->file->update(bytes);
}

void GitDigest::regular_end() {
  const auto hash = state_->file->finish();
  state_->file.reset();
  state_->add(state_->executable ? "100755" : "100644", hash);
}

void GitDigest::symlink(std::string_view target) {
  auto hasher = begin_object(state_->algorithm, "blob", target.size());
  hasher.update(bytes_of(target));
  state_->add("120000", hasher.finish());
}

void GitDigest::directory() {
  state_->open.emplace_back();
  state_->names.emplace_back();
}

void GitDigest::entry(std::string_view name) {
  state_->names.back() = name;
}

void GitDigest::directory_end() {
  const auto hash = hash_tree(state_->algorithm, std::move(state_->open.back()));
  state_->open.pop_back();
  state_->names.pop_back();
  state_->add("40000", hash);
}

Hash GitDigest::finish() const {
  if (!state_->root) {
    throw Error(Reaction::Reject, "nar.truncated", "the archive has no root yet");
  }
  return *state_->root;
}

} // namespace nixbuild::nar
