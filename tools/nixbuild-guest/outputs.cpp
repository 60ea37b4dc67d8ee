#include "outputs.hpp"

#include "files.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/writer.hpp>
#include <nixbuild/sandbox/tree_archive.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace nixbuild::guest {

namespace {

constexpr std::size_t kFrame = 512 * kKiB;
constexpr std::size_t kLength = 4;
/// Pieces from this size on are frames of their own, written from where they are.
constexpr std::size_t kDirect = 64 * kKiB;

/// Cuts the archive into the frames of the output port.
class FrameSink final : public ByteSink {
public:
  explicit FrameSink(int port) : port_(port) { frame_.reserve(kLength + kFrame); }

  void write(ByteView bytes) override {
    if (bytes.size() >= kDirect) {
      write_direct(bytes);
      return;
    }
    while (!bytes.empty()) {
      const auto size = std::min(bytes.size(), kLength + kFrame - frame_.size());
      frame_.insert(frame_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
      bytes = bytes.subspan(size);
      if (frame_.size() == kLength + kFrame) {
        flush_gathered();
      }
    }
  }

  void finish() {
    flush_gathered();
    flush(0);
  }

private:
  void write_direct(ByteView bytes) {
    flush_gathered();
    while (!bytes.empty()) {
      const auto frame =
          bytes.first(std::min(bytes.size(), std::size_t{sandbox::guest::kMaxOutputFrame}));
      flush(frame.size());
      write_all(port_, frame);
      bytes = bytes.subspan(frame.size());
    }
  }

  void flush_gathered() {
    if (frame_.size() > kLength) {
      flush(frame_.size() - kLength);
    }
  }

  /// Writes what was gathered behind the length of the frame, which may be larger than that.
  void flush(std::size_t length) {
    for (std::size_t i = 0; i < kLength; ++i) {
      frame_[i] = static_cast<std::uint8_t>(length >> (8 * i));
    }
    write_all(port_, frame_);
    frame_.resize(kLength);
  }

  int port_;
  Bytes frame_ = Bytes(kLength);
};

std::string shown(const sandbox::GuestJob& job, const sandbox::GuestOutput& output) {
  return job.store_dir + "/" + output.store_name;
}

std::string archive(const sandbox::GuestJob& job,
                    const std::string& store,
                    std::uint32_t index,
                    FrameSink& frames) {
  try {
    const UniqueFd folder(system_call(
        kCode, store, [&] { return ::open(store.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
    const auto& output = job.outputs.at(index);
    sandbox::ArchiveOptions options;
    options.shown_as = shown(job, output);
    options.owner = job.uid;
    nar::Writer writer(frames);
    sandbox::archive_tree(folder.get(), output.store_name, writer, options);
    writer.finish();
    return {};
  } catch (const std::exception& error) {
    return std::string(error.what()).substr(0, sandbox::guest::kMaxText);
  }
}

} // namespace

std::vector<sandbox::GuestOutputState> output_states(const sandbox::GuestJob& job,
                                                     const std::string& store) {
  std::vector<sandbox::GuestOutputState> states;
  for (const auto& output : job.outputs) {
    sandbox::GuestOutputState state;

    struct stat info {};

    if (::lstat((store + "/" + output.store_name).c_str(), &info) == 0) {
      state.present = true;
      const bool link = S_ISLNK(info.st_mode);
      state.suspicious =
          info.st_uid != job.uid || (!link && (info.st_mode & (S_IWGRP | S_IWOTH)) != 0);
      if (!link && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
        state.problem = "file '" + shown(job, output) + "' has an unsupported type";
      }
    }
    states.push_back(std::move(state));
  }
  return states;
}

void send_output(const sandbox::GuestJob& job,
                 const std::string& store,
                 std::uint32_t index,
                 int port,
                 HostLink& host) {
  FrameSink frames(port);
  sandbox::guest::OutputEnd end;
  end.index = index;
  end.error = archive(job, store, index, frames);
  frames.finish();
  host.send(end);
}

} // namespace nixbuild::guest
