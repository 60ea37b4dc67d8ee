#include <nixbuild/base/error.hpp>
#include <nixbuild/server/recovery.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <optional>
#include <vector>

namespace nixbuild::server {

namespace {

/// Clocks of files tick in steps of some milliseconds, and older than the clock that is read here.
constexpr std::int64_t kClockSlackSeconds = 2;

std::string read_line(const std::string& name) {
  std::ifstream file(name);
  std::string line;
  std::getline(file, line);
  return line;
}

void write_line(const std::string& name, const std::string& line) {
  const auto temporary = name + ".new";
  {
    const UniqueFd file(system_call("recovery.sync", "writing " + temporary, [&] {
      return ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    }));
    const auto text = line + "\n";
    system_call("recovery.sync", "writing " + temporary, [&] {
      return ::write(file.get(), text.data(), text.size());
    });
    system_call("recovery.sync", "writing " + temporary, [&] { return ::fsync(file.get()); });
  }
  system_call("recovery.sync", "renaming " + temporary, [&] {
    return ::rename(temporary.c_str(), name.c_str());
  });
}

std::int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::int64_t written_at(const UniqueFd& file) {
  struct stat info {};

  if (!file || ::fstat(file.get(), &info) != 0) {
    return 0;
  }
  return info.st_mtim.tv_sec;
}

/// The paths that a power failure may have left without contents.
struct Doubts {
  model::StorePaths missing; ///< no contents at all
  model::StorePaths recent;  ///< contents written after the last sync
};

Doubts doubts_of(store::Store& store,
                 store::SegmentStore& segments,
                 store::AccountId account,
                 std::int64_t synced) {
  Doubts doubts;
  const auto paths = store.db().all_paths(account);
  auto look = [&](const model::PathInfo& info) {
    const auto contents = segments.open(info.nar_hash);
    if (!contents) {
      doubts.missing.push_back(info.path);
    } else if (written_at(contents->metadata) + kClockSlackSeconds >= synced ||
               written_at(contents->data) + kClockSlackSeconds >= synced) {
      doubts.recent.push_back(info.path);
    }
  };
  store.db().path_infos(account, paths, look);
  return doubts;
}

/// The paths and all that refer to them, directly or not.
model::StorePaths
with_referrers(store::MetadataDb& db, store::AccountId account, const model::StorePaths& paths) {
  model::StorePathSet found(paths.begin(), paths.end());
  std::vector<model::StorePath> open(paths.begin(), paths.end());
  while (!open.empty()) {
    const auto path = open.back();
    open.pop_back();
    for (const auto& referrer : db.referrers(account, path)) {
      if (found.insert(referrer).second) {
        open.push_back(referrer);
      }
    }
  }
  return {found.begin(), found.end()};
}

std::size_t forget(store::Store& store,
                   store::SegmentStore& segments,
                   store::AccountId account,
                   const model::StorePaths& broken) {
  const auto gone = with_referrers(store.db(), account, broken);
  std::vector<Hash> hashes;
  auto note = [&hashes](const model::PathInfo& info) {
    hashes.push_back(info.nar_hash);
  };
  store.db().path_infos(account, gone, note);
  store.db().remove_paths(account, gone);
  for (const auto& hash : hashes) {
    if (!store.db().nar_hash_in_use(hash)) {
      segments.remove(hash);
    }
  }
  return gone.size();
}

} // namespace

void sync_state(const std::string& state_dir) {
  const auto begun = now_seconds();
  const UniqueFd directory(system_call("recovery.sync", "opening " + state_dir, [&] {
    return ::open(state_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }));
  system_call("recovery.sync", "syncing " + state_dir, [&] { return ::syncfs(directory.get()); });
  write_line(state_dir + "/synced", std::to_string(begun));
}

std::size_t recover_state(const std::string& state_dir,
                          store::Store& store,
                          store::SegmentStore& segments,
                          Log& log,
                          std::string boot_id) {
  if (boot_id.empty()) {
    boot_id = read_line("/proc/sys/kernel/random/boot_id");
  }
  const auto file_name = state_dir + "/boot";
  const auto known = read_line(file_name);
  std::size_t forgotten = 0;
  if (!known.empty() && known != boot_id) {
    const auto synced_text = read_line(state_dir + "/synced");
    const std::int64_t synced =
        synced_text.empty() ? 0 : std::strtoll(synced_text.c_str(), nullptr, 10);
    for (const auto& account : store.db().accounts()) {
      auto doubts = doubts_of(store, segments, account.id, synced);
      auto broken = std::move(doubts.missing);
      if (!doubts.recent.empty()) {
        for (const auto& finding : store.verify(account.id, doubts.recent)) {
          broken.push_back(finding.path);
        }
      }
      if (!broken.empty()) {
        forgotten += forget(store, segments, account.id, broken);
      }
    }
    log.info(
        fmt::format("the machine was started anew: {} paths had not reached the disk", forgotten));
  }
  if (known != boot_id) {
    write_line(file_name, boot_id);
  }
  return forgotten;
}

} // namespace nixbuild::server
