#include "machine_health.hpp"

#include <nixbuild/sandbox/scratch_room.hpp>
#include <nixbuild/scheduler/history.hpp>

#include <sys/statvfs.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

namespace nixbuild::server {

namespace {

constexpr std::size_t kHashAndDash = model::StorePath::kHashLength + 1;

std::string text_of_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::optional<scheduler::Outcome> outcome_of(const store::BuildRecord& record) {
  if (!record.status || record.reused || record.started_us == 0 || record.stopped_us == 0) {
    return std::nullopt;
  }
  if (model::is_success(*record.status)) {
    return scheduler::Outcome::Succeeded;
  }
  if (*record.status == model::BuildStatus::PermanentFailure) {
    return scheduler::Outcome::BuilderFailed;
  }
  return std::nullopt;
}

/// `hello-2.12.1` of the base name of its derivation.
std::string package_of(std::string_view derivation) {
  derivation.remove_prefix(std::min(kHashAndDash, derivation.size()));
  if (derivation.ends_with(".drv")) {
    derivation.remove_suffix(4);
  }
  return std::string(derivation);
}

} // namespace

double stall_average(std::string_view text, std::string_view kind) {
  constexpr std::string_view mark = " avg10=";
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const auto line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const auto at = line.find(mark);
    if (line.starts_with(kind) && at != std::string_view::npos) {
      const std::string number(line.substr(at + mark.size(), 8));
      return std::clamp(std::strtod(number.c_str(), nullptr), 0.0, 100.0);
    }
  }
  return 0;
}

scheduler::NodeHealth health_of_machine(const std::filesystem::path& state_dir,
                                        const std::filesystem::path& proc_pressure) {
  scheduler::NodeHealth health;
  const auto memory = text_of_file(proc_pressure / "memory");
  health.cpu_some = stall_average(text_of_file(proc_pressure / "cpu"), "some");
  health.memory_some = stall_average(memory, "some");
  health.memory_full = stall_average(memory, "full");
  health.io_full = stall_average(text_of_file(proc_pressure / "io"), "full");

  struct statvfs room {};

  if (::statvfs(state_dir.c_str(), &room) == 0) {
    // What running builds are about to write is as good as written.
    const auto free = std::uint64_t{room.f_bavail} * room.f_frsize;
    health.free_disk_bytes = free - std::min(free, sandbox::scratch_to_come(state_dir / "run"));
  }
  return health;
}

std::vector<scheduler::BuildRecord>
history_of(store::MetadataDb& db, store::AccountId account, std::size_t most) {
  std::vector<scheduler::BuildRecord> records;
  for (const auto& build : db.builds(account, most)) {
    const auto outcome = outcome_of(build);
    if (!outcome) {
      continue;
    }
    const auto name = scheduler::split_name(package_of(build.derivation));
    scheduler::BuildRecord record;
    record.account = std::to_string(account.value);
    record.package = name.package;
    record.version = name.version;
    record.platform = build.platform;
    record.cpus = build.cpus;
    record.memory_bytes = build.memory_bytes;
    record.peak_memory_bytes = build.peak_memory_bytes;
    record.cpu_time = scheduler::CpuTime(static_cast<std::int64_t>(build.cpu_us / 1000));
    record.duration = scheduler::Milliseconds(
        std::max<std::int64_t>(build.stopped_us - build.started_us, 0) / 1000);
    record.outcome = *outcome;
    records.push_back(std::move(record));
  }
  std::reverse(records.begin(), records.end());
  return records;
}

} // namespace nixbuild::server
