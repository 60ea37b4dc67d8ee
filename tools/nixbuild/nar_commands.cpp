#include "here.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/nar/listing.hpp>
#include <nixbuild/nar/reader.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <optional>

namespace nixbuild::tool {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kPiece = 256 * kKiB;

class DescriptorSink final : public ByteSink {
public:
  explicit DescriptorSink(int fd) : fd_(fd) {}

  void write(ByteView bytes) override {
    while (!bytes.empty()) {
      const auto count = system_call("output.write", "writing the output", [&] {
        return ::write(fd_, bytes.data(), bytes.size());
      });
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

private:
  int fd_;
};

UniqueFd open_archive(const std::string& name) {
  if (name == "-") {
    return UniqueFd(system_call("nar.open", "duplicating standard input", [] {
      return ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    }));
  }
  return UniqueFd(system_call(
      "nar.open", name, [&] { return ::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY); }));
}

/// Feeds a whole file to `sink`; nothing may follow the archive.
void read_archive(const std::string& name, nar::EventSink& sink) {
  const auto file = open_archive(name);
  nar::Reader reader(sink);
  Bytes buffer(kPiece);
  for (;;) {
    const auto count = system_call(
        "nar.read", name, [&] { return ::read(file.get(), buffer.data(), buffer.size()); });
    if (count == 0) {
      break;
    }
    const auto bytes = ByteView(buffer).first(static_cast<std::size_t>(count));
    if (reader.feed(bytes) < bytes.size()) {
      throw Error(
          Reaction::Reject,
          "nar.trailing",
          fmt::format("{}: bytes follow the archive, which ends at {}", name, reader.offset()));
    }
  }
  reader.expect_finished();
}

/// Passes the contents of one regular file of an archive on.
class OneFile final : public nar::EventSink {
public:
  OneFile(std::string wanted, ByteSink& out) : wanted_(std::move(wanted)), out_(out) {}

  [[nodiscard]] bool found() const noexcept { return found_; }

  [[nodiscard]] bool other_type() const noexcept { return other_type_; }

  void regular(bool, std::uint64_t) override {
    inside_ = here();
    found_ = found_ || inside_;
  }

  void contents(ByteView bytes) override {
    if (inside_) {
      out_.write(bytes);
    }
  }

  void regular_end() override {
    inside_ = false;
    leave();
  }

  void symlink(std::string_view) override {
    other_type_ = other_type_ || here();
    leave();
  }

  void directory() override {
    other_type_ = other_type_ || here();
    lengths_.push_back(path_.size());
  }

  void entry(std::string_view name) override { path_.append("/").append(name); }

  void directory_end() override {
    lengths_.pop_back();
    leave();
  }

private:
  [[nodiscard]] bool here() const { return path_ == wanted_; }

  /// Back to the path of the folder around it.
  void leave() { path_.resize(lengths_.empty() ? 0 : lengths_.back()); }

  std::string wanted_; ///< empty: the root; else begins with `/`
  ByteSink& out_;
  std::string path_;
  std::vector<std::size_t> lengths_;
  bool inside_ = false;
  bool found_ = false;
  bool other_type_ = false;
};

std::string normal_path(std::string_view path) {
  std::string result;
  for (const auto& part : fs::path(path).lexically_normal()) {
    if (part != "/" && part != "." && !part.empty()) {
      result += "/" + part.string();
    }
  }
  return result;
}

void remove_partial(const std::string& name) {
  std::error_code ignored;
  fs::remove_all(name, ignored);
}

} // namespace

void print(std::string_view text) {
  DescriptorSink(STDOUT_FILENO).write(bytes_of(text));
}

int nar_ls(const server::Command& command) {
  nar::Listing listing;
  read_archive(command.arguments.at(0), listing);
  DescriptorSink out(STDOUT_FILENO);
  if (command.has("--json")) {
    listing.write_json(out);
    print("\n");
  } else {
    listing.write_text(out);
  }
  return 0;
}

int nar_cat(const server::Command& command) {
  const auto& path = command.arguments.at(1);
  DescriptorSink out(STDOUT_FILENO);
  OneFile file(normal_path(path), out);
  read_archive(command.arguments.at(0), file);
  if (file.other_type()) {
    throw Error(
        Reaction::Reject, "nar.not-a-file", fmt::format("'{}' is not a regular file", path));
  }
  if (!file.found()) {
    throw Error(
        Reaction::NotFound, "nar.no-such-entry", fmt::format("the archive has no '{}'", path));
  }
  return 0;
}

int nar_pack(const server::Command& command) {
  const auto& path = command.arguments.at(0);
  const auto target = command.value("--output");
  if (!target && ::isatty(STDOUT_FILENO) == 1) {
    server::throw_usage("an archive is not for a terminal: use --output FILE or a pipe");
  }
  UniqueFd file;
  if (target) {
    file = UniqueFd(system_call("output.write", *target, [&] {
      return ::open(target->c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    }));
  }
  try {
    DescriptorSink out(target ? file.get() : STDOUT_FILENO);
    nar::Writer writer(out);
    sandbox::ArchiveOptions options;
    options.shown_as = path;
    sandbox::archive_tree(AT_FDCWD, path, writer, options);
    writer.finish();
  } catch (...) {
    if (target) {
      remove_partial(*target);
    }
    throw;
  }
  return 0;
}

int nar_unpack(const server::Command& command) {
  const auto& target = command.arguments.at(1);

  struct stat info {};

  if (::lstat(target.c_str(), &info) == 0) {
    throw Error(Reaction::Reject, "unpack.exists", fmt::format("'{}' exists already", target));
  }
  const auto path = fs::absolute(target).lexically_normal();
  const auto folder = (path.has_filename() ? path : path.parent_path()).parent_path();
  const auto name = (path.has_filename() ? path : path.parent_path()).filename();
  const UniqueFd parent(system_call("unpack.write", folder.string(), [&] {
    return ::open(folder.c_str(), O_DIRECTORY | O_PATH | O_CLOEXEC);
  }));
  try {
    sandbox::TreeUnpacker unpacker(parent.get(), name.string());
    read_archive(command.arguments.at(0), unpacker);
  } catch (...) {
    remove_partial((folder / name).string());
    throw;
  }
  return 0;
}

} // namespace nixbuild::tool
