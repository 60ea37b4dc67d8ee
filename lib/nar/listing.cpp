#include "nar/tokens.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/listing.hpp>
#include <nixbuild/nar/name.hpp>

#include <fmt/format.h>

#include <iterator>
#include <utility>

namespace nixbuild::nar {

namespace {

/// Bytes of the UTF-8 character at the text's begin; 0 when it is not well-formed.
std::size_t utf8_length(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) {
    return static_cast<unsigned char>(text[i]);
  };
  const unsigned first = byte(0);
  if (first < 0x80) {
    return 1;
  }
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) {
    return 0;
  }
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) {
      return 0;
    }
  }
  // Overlong forms, surrogates, and what lies beyond U+10FFFF.
  const unsigned second = byte(1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return length;
}

std::string json_text(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) {
      out += "\xef\xbf\xbd";
    } else if (text[0] == '"' || text[0] == '\\') {
      out += '\\';
      out += text[0];
    } else if (static_cast<unsigned char>(text[0]) < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(text[0]));
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out + '"';
}

std::string json_head(const ListedEntry& entry) {
  switch (entry.type) {
  case EntryType::Regular:
    return fmt::format(R"({{"type":"regular","size":{}{},"narOffset":{}}})",
                       entry.size,
                       entry.executable ? R"(,"executable":true)" : "",
                       entry.nar_offset);
  case EntryType::Symlink:
    return fmt::format(R"({{"type":"symlink","target":{}}})", json_text(entry.target));
  case EntryType::Directory:
    break;
  }
  return R"({"type":"directory","entries":{)";
}

void write(ByteSink& out, std::string_view text) {
  out.write(bytes_of(text));
}

constexpr std::uint64_t text_size(std::uint64_t length) {
  return 8 + length + padding_of(length);
}

} // namespace

ListedEntry& Listing::add(EntryType type) {
  if (entries_.size() >= maximum_) {
    throw Error(Reaction::Reject,
                "nar.limit",
                fmt::format("archive has more than the {} nodes that are listed", maximum_));
  }
  if (entries_.empty()) {
    position_ = kMagic.size();
  }
  auto& entry = entries_.emplace_back();
  entry.name = std::exchange(name_, {});
  entry.type = type;
  entry.depth = depth_;
  return entry;
}

void Listing::regular(bool executable, std::uint64_t size) {
  auto& entry = add(EntryType::Regular);
  entry.executable = executable;
  entry.size = size;
  position_ += kRegular.size() + (executable ? kExecutable.size() : kContents.size()) + 8;
  entry.nar_offset = position_;
  position_ += size + padding_of(size);
}

void Listing::contents(ByteView /*bytes*/) {}

void Listing::regular_end() {
  position_ += kCloseBoth.size();
}

void Listing::symlink(std::string_view target) {
  add(EntryType::Symlink).target = target;
  position_ += kSymlink.size() + kTarget.size() + text_size(target.size()) + kCloseBoth.size();
}

void Listing::directory() {
  add(EntryType::Directory);
  position_ += kDirectory.size();
  ++depth_;
}

void Listing::entry(std::string_view name) {
  name_ = name;
  position_ += kEntry.size() + text_size(name.size()) + kNode.size();
}

void Listing::directory_end() {
  --depth_;
  position_ += kCloseBoth.size();
}

void Listing::for_each(
    const std::function<void(std::string_view path, const ListedEntry& entry)>& visit) const {
  std::string path;
  std::vector<std::size_t> lengths; // of the path of each directory above
  for (const auto& entry : entries_) {
    lengths.resize(entry.depth);
    path.resize(lengths.empty() ? 0 : lengths.back());
    if (entry.depth > 0) {
      path.append("/").append(entry.name);
    }
    lengths.push_back(path.size());
    visit(path, entry);
  }
}

void Listing::write_text(ByteSink& out) const {
  for_each([&](std::string_view path, const ListedEntry& entry) {
    if (entry.depth == 0 && entry.type == EntryType::Directory) {
      return;
    }
    const bool link = entry.type == EntryType::Symlink;
    const char* mode = link                                 ? "lrwxrwxrwx"
                       : entry.type == EntryType::Directory ? "dr-xr-xr-x"
                       : entry.executable                   ? "-r-xr-xr-x"
                                                            : "-r--r--r--";
    write(out,
          fmt::format("{} {:>20} {}{}{}{}\n",
                      mode,
                      entry.size,
                      path.empty() ? "" : ".",
                      path,
                      link ? " -> " : "",
                      entry.target));
  });
}

void Listing::write_json(ByteSink& out) const {
  const auto close_to = [&](std::size_t open, std::size_t depth) {
    for (; open > depth; --open) {
      write(out, "}}");
    }
    return open;
  };
  std::size_t open = 0; // directories that are not closed yet
  const ListedEntry* last = nullptr;
  for (const auto& entry : entries_) {
    open = close_to(open, entry.depth);
    if (last != nullptr && last->depth >= entry.depth) {
      write(out, ",");
    }
    if (entry.depth > 0) {
      write(out, json_text(entry.name) + ":");
    }
    write(out, json_head(entry));
    open += entry.type == EntryType::Directory ? 1 : 0;
    last = &entry;
  }
  close_to(open, 0);
}

} // namespace nixbuild::nar
