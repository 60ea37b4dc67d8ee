#include "builtins.hpp"
#include "http_fetch.hpp"
#include "xz_sink.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

namespace nixbuild::builtin {

namespace fs = std::filesystem;

namespace {

constexpr int kTries = 5;
constexpr std::chrono::milliseconds kFirstPause{250};

class FileSink final : public ByteSink {
public:
  explicit FileSink(const std::string& path)
      : path_(path), file_(system_call(kCode, path, [&] {
          return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        })) {}

  void write(ByteView bytes) override {
    while (!bytes.empty()) {
      const auto put = system_call(
          kCode, path_, [&] { return ::write(file_.get(), bytes.data(), bytes.size()); });
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
  }

private:
  std::string path_;
  UniqueFd file_;
};

/// A NAR becomes a tree.
class RestoreSink final : public ByteSink {
public:
  explicit RestoreSink(const std::string& path) : unpacker_(AT_FDCWD, path), reader_(unpacker_) {}

  void write(ByteView bytes) override {
    if (reader_.feed(bytes) < bytes.size()) {
      fail("bytes follow the archive");
    }
  }

  void finish() { reader_.expect_finished(); }

private:
  sandbox::TreeUnpacker unpacker_;
  nar::Reader reader_;
};

std::uint64_t fetch_into(const std::string& url, const Call& call, const std::string& out) {
  if (!call.on("unpack")) {
    FileSink file(out);
    return fetch_once(url, call, file);
  }
  RestoreSink tree(out);
  if (!url.ends_with(".xz")) {
    const auto size = fetch_once(url, call, tree);
    tree.finish();
    return size;
  }
  XzSink compressed(tree);
  const auto size = fetch_once(url, call, compressed);
  compressed.finish();
  tree.finish();
  return size;
}

/// Try after try, each from the beginning.
std::uint64_t fetch(const std::string& url, const Call& call, const std::string& out) {
  auto pause = kFirstPause;
  for (int tried = 1;; ++tried) {
    try {
      return fetch_into(url, call, out);
    } catch (const FetchFailure& failure) {
      std::error_code ignored;
      fs::remove_all(out, ignored);
      const auto text = fmt::format("unable to download '{}': {}", url, failure.message);
      if (!failure.again || tried == kTries) {
        fail(text);
      }
      fmt::print(stderr, "warning: {}; retrying in {} ms\n", text, pause.count());
    }
    std::this_thread::sleep_for(pause);
    pause *= 2;
  }
}

} // namespace

void fetch_url(const Call& call) {
  const auto& out = call.attribute("out");
  const auto& url = call.attribute("url");
  if (call.setting("network") != "1" && !url.starts_with("file:")) {
    fail("'builtin:fetchurl' must be a fixed-output or impure derivation, on a builder that has a "
         "network");
  }
  fmt::print(stderr, "downloading '{}'\n", url);
  const auto size = fetch(url, call, out);
  fmt::print(stderr, "downloaded {} bytes\n", size);
  if (call.on("executable")) {
    system_call(kCode, out, [&] { return ::chmod(out.c_str(), 0755); });
  }
}

} // namespace nixbuild::builtin
