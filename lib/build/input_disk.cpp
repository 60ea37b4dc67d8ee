#include "steps.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/segment/compose.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace nixbuild::build {

namespace {

/// Gathers small writes into large ones.
class FileSink final : public ByteSink {
public:
  explicit FileSink(int fd) : fd_(fd) { buffer_.reserve(kBuffer); }

  void write(ByteView bytes) override {
    while (!bytes.empty()) {
      const std::size_t count = std::min(bytes.size(), kBuffer - buffer_.size());
      buffer_.append(text_of(bytes.first(count)));
      bytes = bytes.subspan(count);
      if (buffer_.size() == kBuffer) {
        flush();
      }
    }
  }

  void flush() {
    std::string_view left = buffer_;
    while (!left.empty()) {
      const auto count = system_call("build.compose", "writing the input disk's head", [&] {
        return ::write(fd_, left.data(), left.size());
      });
      left.remove_prefix(static_cast<std::size_t>(count));
    }
    buffer_.clear();
  }

private:
  static constexpr std::size_t kBuffer = 1024 * 1024;
  int fd_;
  std::string buffer_;
};

/// A file in memory that nobody can change any more and that others can open only for reading.
UniqueFd sealed_copy(const UniqueFd& written) {
  system_call("build.compose", "sealing the input disk's head", [&] {
    return ::fcntl(
        written.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  });
  const std::string name = "/proc/self/fd/" + std::to_string(written.get());
  return UniqueFd(system_call("build.compose", "opening the input disk's head", [&] {
    return ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
  }));
}

} // namespace

InputDisk
compose_inputs(store::Store& store, store::AccountId account, const model::StorePaths& closure) {
  std::vector<store::Export> opened;
  std::vector<segment::Part> parts;
  opened.reserve(closure.size());
  parts.reserve(closure.size());
  for (const auto& path : closure) {
    opened.push_back(store.open_export(account, path));
    segment::Part part;
    part.name = path.base_name();
    part.metadata = opened.back().metadata();
    part.data_bytes = opened.back().data_bytes();
    parts.push_back(std::move(part));
  }
  const UniqueFd head(system_call("build.compose", "making the input disk's head", [] {
    return ::memfd_create("nixbuild-head", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  }));
  FileSink sink(head.get());
  const auto composed = segment::compose(store.dir().text(), parts, sink);
  sink.flush();

  InputDisk disk;
  disk.bytes = composed.disk_bytes;
  sandbox::DiskExtent first;
  first.fd = sealed_copy(head);
  first.length = composed.head_bytes;
  disk.extents.push_back(std::move(first));
  for (const auto& placed : composed.data) {
    sandbox::DiskExtent extent;
    const std::string name = "/proc/self/fd/" + std::to_string(opened[placed.part].data_fd());
    extent.fd = UniqueFd(system_call("build.compose", "opening stored contents", [&] {
      return ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
    }));
    extent.length = placed.length;
    disk.extents.push_back(std::move(extent));
  }
  return disk;
}

} // namespace nixbuild::build
