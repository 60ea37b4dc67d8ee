#include "outputs.hpp"

#include "files.hpp"
#include "frame_sink.hpp"

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
