#include "sandbox/wall_notes.hpp"

#include <nixbuild/sandbox/qemu_executor.hpp>

#include <fmt/format.h>

#include <fstream>
#include <utility>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

namespace {

constexpr const char* kWallsFile = ".walls";

/// One text of both, without the mark between its parts at the end.
std::string joined(const std::string& always, const std::string& shortfall) {
  auto text = shortfall.empty() || always.empty() ? always + shortfall : always + "; " + shortfall;
  while (text.ends_with(' ') || text.ends_with(';')) {
    text.pop_back();
  }
  return text;
}

} // namespace

WallNotes::WallNotes(fs::path run_directory, std::string always, Log* log)
    : run_directory_(std::move(run_directory)), always_(joined(always, {})), log_(log) {}

void WallNotes::note(const std::string& walls, const std::string& shortfall) {
  const std::lock_guard lock(mutex_);
  auto missing = joined(always_, shortfall);
  const bool first = report_.machines == 0;
  const bool news = walls != report_.walls || missing != report_.shortfall;
  ++report_.machines;
  report_.weaker += missing.empty() ? 0U : 1U;
  if (!first && !news) {
    return;
  }
  report_.walls = walls;
  report_.shortfall = std::move(missing);
  write_down();
  if (log_ == nullptr) {
    return;
  }
  if (!report_.shortfall.empty()) {
    log_->warning("machines of builds are less walled in than they could be: " + report_.shortfall);
  } else if (!first) {
    log_->info("machines of builds have all their walls: " + report_.walls);
  }
}

WallReport WallNotes::report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

/// For whoever asks another process; where it cannot be written, that one does not know.
void WallNotes::write_down() const {
  const auto name = run_directory_ / kWallsFile;
  const auto staging = run_directory_ / fmt::format("{}.new", kWallsFile);
  {
    std::ofstream file(staging);
    file << report_.walls << "\n" << report_.shortfall << "\n";
  }
  std::error_code ignored;
  fs::rename(staging, name, ignored);
}

std::optional<WallReport> walls_of_last_machine(const fs::path& run_directory) {
  std::ifstream file(run_directory / kWallsFile);
  WallReport report;
  if (!std::getline(file, report.walls) || !std::getline(file, report.shortfall)) {
    return std::nullopt;
  }
  return report;
}

} // namespace nixbuild::sandbox
