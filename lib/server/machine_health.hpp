#pragma once

#include <nixbuild/scheduler/history.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <filesystem>
#include <string_view>
#include <vector>

namespace nixbuild::server {

/// How hard the machine is pressed, from the kernel's pressure stall averages over ten seconds, and
/// how much room is left where builds are kept, beside what scratch disks may soon take. What the
/// kernel does not tell counts as no pressure. Reads three small files below `proc_pressure`.
[[nodiscard]] scheduler::NodeHealth
health_of_machine(const std::filesystem::path& state_dir,
                  const std::filesystem::path& proc_pressure = "/proc/pressure");

/// The figure `avg10` of the line of a pressure file that begins with `kind` (`some`, `full`), in
/// percent; 0 when there is none.
[[nodiscard]] double stall_average(std::string_view text, std::string_view kind);

/// What an account's ended builds teach the scheduler, oldest first.
[[nodiscard]] std::vector<scheduler::BuildRecord>
history_of(store::MetadataDb& db, store::AccountId account, std::size_t most);

} // namespace nixbuild::server
