#pragma once

#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/store/files.hpp>
#include <nixbuild/store/memory.hpp>
#include <nixbuild/store/sqlite.hpp>
#include <nixbuild/store/store.hpp>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

namespace nixbuild::store::testing {

/// A directory that is removed with everything in it.
class TemporaryDir {
public:
  TemporaryDir() {
    std::string name = (std::filesystem::temp_directory_path() / "nixbuild-store-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw_system_error("test.directory", name);
    }
    path_ = name;
  }

  ~TemporaryDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

private:
  std::filesystem::path path_;
};

/// Time that stands still until it is moved.
class ManualClock final : public Clock {
public:
  [[nodiscard]] WallTime wall() const override { return WallTime(std::chrono::seconds(seconds)); }

  [[nodiscard]] MonotonicTime monotonic() const override {
    return MonotonicTime(std::chrono::seconds(seconds));
  }

  std::int64_t seconds = 1'000'000;
};

enum class Kind { Memory, Files };

/// A whole store over one kind of adapters.
struct Ports {
  explicit Ports(Kind which) : kind(which) { open(); }

  void open() {
    if (kind == Kind::Memory) {
      db = make_memory_metadata();
      segments = make_memory_segments();
    } else {
      db = open_sqlite_metadata(dir.path() / "metadata.sqlite");
      segments = open_file_segments(dir.path());
    }
    store = std::make_unique<Store>(*db, *segments, clock, model::StoreDir());
    account = db->ensure_account("default");
  }

  void close() {
    store.reset();
    segments.reset();
    db.reset();
  }

  /// As a restart of the process would.
  void reopen() {
    close();
    open();
  }

  [[nodiscard]] std::size_t drafts() const {
    const auto path = dir.path() / "drafts";
    return kind == Kind::Memory
               ? 0
               : static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path),
                                                        std::filesystem::directory_iterator()));
  }

  [[nodiscard]] std::size_t segment_count() const {
    std::size_t count = 0;
    segments->visit([&](const Hash&) { ++count; });
    return count;
  }

  Kind kind;
  TemporaryDir dir;
  ManualClock clock;
  std::unique_ptr<MetadataDb> db;
  std::unique_ptr<SegmentStore> segments;
  std::unique_ptr<Store> store;
  AccountId account;
};

/// A path made from a text: the same text, the same path.
inline model::StorePath path_named(std::string_view name, std::string_view seed = "") {
  const auto digest =
      hash_of(HashAlgorithm::Sha256, bytes_of(std::string(name) + "/" + std::string(seed)));
  return {digest.bytes().first(20), name};
}

inline std::string nar_of_file(std::string_view contents, bool executable = false) {
  std::string out;
  StringSink sink(out);
  nar::Writer writer(sink);
  writer.regular(executable, contents.size());
  if (!contents.empty()) {
    writer.contents(bytes_of(contents));
  }
  writer.regular_end();
  writer.finish();
  return out;
}

/// A directory with `files` files of some sizes around the block size, and a symlink.
inline std::string nar_of_tree(std::size_t files, std::string_view text) {
  std::string out;
  StringSink sink(out);
  nar::Writer writer(sink);
  writer.directory();
  for (std::size_t i = 0; i < files; ++i) {
    std::string number = std::to_string(i);
    writer.entry("f" + std::string(8 - number.size(), '0') + number);
    std::string contents(text);
    while (contents.size() < i % 7 * 1500) {
      contents += contents + number;
    }
    writer.regular(i % 3 == 0, contents.size());
    if (!contents.empty()) {
      writer.contents(bytes_of(contents));
    }
    writer.regular_end();
  }
  writer.entry("link");
  writer.symlink("f00000000");
  writer.directory_end();
  writer.finish();
  return out;
}

/// Feeds all of `nar` in pieces; returns the bytes taken.
inline std::size_t feed(Import& import, std::string_view nar, std::size_t piece = 64 * 1024) {
  std::size_t taken = 0;
  while (taken < nar.size()) {
    const auto part = nar.substr(taken, piece);
    const auto count = import.feed(bytes_of(part));
    taken += count;
    if (count < part.size()) {
      break;
    }
  }
  return taken;
}

inline ImportRequest
request_for(const model::StorePath& path, std::string_view nar, model::StorePaths references = {}) {
  return {.path = path,
          .deriver = {},
          .nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of(nar)),
          .nar_size = nar.size(),
          .references = std::move(references),
          .signatures = {},
          .content_address = {},
          .scan_for = {}};
}

inline model::PathInfo
add(Store& store, AccountId account, ImportRequest request, std::string_view nar) {
  auto import = store.begin_import(account, std::move(request));
  feed(import, nar);
  auto info = import.seal();
  store.commit(account, {&info, 1});
  return info;
}

inline model::PathInfo
add_path(Ports& ports, std::string_view name, model::StorePaths references = {}) {
  const auto nar = nar_of_file("contents of " + std::string(name));
  return add(
      *ports.store, ports.account, request_for(path_named(name), nar, std::move(references)), nar);
}

/// The whole NAR of an open path.
inline std::string nar_of(Export& source) {
  std::string out;
  while (const auto piece = source.next()) {
    if (const auto* literal = std::get_if<segment::LiteralPiece>(&*piece)) {
      out += text_of(literal->bytes);
      continue;
    }
    const auto& [offset, length] = std::get<segment::DataPiece>(*piece);
    std::string part(static_cast<std::size_t>(length), '\0');
    const auto count =
        ::pread(source.data_fd(), part.data(), part.size(), static_cast<off_t>(offset));
    if (count != static_cast<ssize_t>(part.size())) {
      throw Error(Reaction::Corrupt, "test.short", "the data blob is too short");
    }
    out += part;
  }
  return out;
}

/// The code of the Error that `call` throws, or an empty text.
template <class Call>
std::string code_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return {};
}

inline model::PathInfo info_for(std::string_view name, model::StorePaths references = {}) {
  model::sort_unique(references);
  return {.path = path_named(name),
          .deriver = {},
          .nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of(name)),
          .nar_size = name.size(),
          .references = std::move(references),
          .registration_time = 7,
          .signatures = {},
          .content_address = {}};
}

/// The database of each kind, with two accounts.
struct Database {
  explicit Database(bool durable) {
    db = durable ? open_sqlite_metadata(dir.path() / "db") : make_memory_metadata();
    a = db->ensure_account("alice");
    b = db->ensure_account("bob");
  }

  TemporaryDir dir;
  std::unique_ptr<MetadataDb> db;
  AccountId a;
  AccountId b;
};

} // namespace nixbuild::store::testing
