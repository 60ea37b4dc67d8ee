#pragma once

#include <nixbuild/nar/event.hpp>
#include <nixbuild/nar/writer.hpp>

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <string_view>

namespace nixbuild::test {

/// A file tree in memory, as small as a test needs it.
struct FileTree {
  enum class Kind : std::uint8_t { Regular, Executable, Symlink, Directory };
  Kind kind = Kind::Regular;
  std::string bytes; ///< contents or target
  std::map<std::string, FileTree> children;

  bool operator==(const FileTree&) const = default;

  static FileTree file(std::string contents, bool executable = false) {
    return {executable ? Kind::Executable : Kind::Regular, std::move(contents), {}};
  }

  static FileTree link(std::string target) { return {Kind::Symlink, std::move(target), {}}; }

  static FileTree directory(std::map<std::string, FileTree> children = {}) {
    return {Kind::Directory, {}, std::move(children)};
  }
};

inline void emit(const FileTree& tree, nar::EventSink& sink) {
  switch (tree.kind) {
  case FileTree::Kind::Regular:
  case FileTree::Kind::Executable:
    sink.regular(tree.kind == FileTree::Kind::Executable, tree.bytes.size());
    if (!tree.bytes.empty()) {
      sink.contents(bytes_of(tree.bytes));
    }
    sink.regular_end();
    return;
  case FileTree::Kind::Symlink:
    sink.symlink(tree.bytes);
    return;
  case FileTree::Kind::Directory:
    break;
  }
  sink.directory();
  for (const auto& [name, child] : tree.children) {
    sink.entry(name);
    emit(child, sink);
  }
  sink.directory_end();
}

inline std::string nar_of(const FileTree& tree) {
  std::string out;
  StringSink sink(out);
  nar::Writer writer(sink);
  emit(tree, writer);
  writer.finish();
  return out;
}

/// Random trees with the sizes, names and shapes that formats stumble over. The same seed gives the
/// same tree everywhere.
class TreeGenerator {
public:
  explicit TreeGenerator(std::uint64_t seed, std::size_t max_file = 20'000)
      : random_(seed), max_file_(max_file) {}

  FileTree tree() { return node(0); }

  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

  std::string bytes(std::size_t size) {
    std::string out(size, '\0');
    for (auto& c : out) {
      c = static_cast<char>(random_());
    }
    return out;
  }

private:
  FileTree node(std::size_t depth) {
    const auto choice = below(10);
    if (choice < (depth == 0 ? 7U : depth < 6 ? 3U : 0U)) {
      auto directory = FileTree::directory();
      const auto count = below(20) == 0 ? 100 + below(400) : below(8);
      for (std::uint64_t i = 0; i < count; ++i) {
        directory.children.insert_or_assign(name(), node(depth + (count > 100 ? 6 : 1)));
      }
      return directory;
    }
    if (choice == 9) {
      return FileTree::link(target());
    }
    return FileTree::file(bytes(file_size()), below(2) == 0);
  }

  std::size_t file_size() {
    switch (below(6)) {
    case 0:
      return below(2);
    case 1:
      return 4090 + below(12);
    case 2:
      return 1000 + below(2200);
    case 3:
      return below(max_file_);
    default:
      return below(100);
    }
  }

  std::string name() {
    static constexpr std::string_view kFirst = "+-#!.a%zA~0\x01\xff ";
    for (;;) {
      std::string text(1, kFirst[below(kFirst.size())]);
      const auto length = below(30) == 0 ? 255 : 1 + below(20);
      while (text.size() < length) {
        const char c = static_cast<char>(below(4) == 0 ? random_() : 'a' + below(26));
        if (c != '/' && c != '\0') {
          text += c;
        }
      }
      if (text != "." && text != "..") {
        return text;
      }
    }
  }

  std::string target() {
    const auto length = below(10) == 0 ? 4000 + below(96) : 1 + below(60);
    std::string text;
    while (text.size() < length) {
      text += static_cast<char>(1 + below(255));
    }
    return text;
  }

  std::mt19937_64 random_;
  std::size_t max_file_;
};

} // namespace nixbuild::test
