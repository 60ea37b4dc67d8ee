#pragma once

#include <nixbuild/base/log.hpp>
#include <nixbuild/sandbox/executor.hpp>

#include <filesystem>
#include <mutex>
#include <string>

namespace nixbuild::sandbox {

/// Keeps what runners say about the walls of their machines: for metrics, for the log when it
/// changes, and in a file of the run directory for `doctor`, which is another process. Thread safe.
class WallNotes {
public:
  /// `always` is what every machine does without; `log` may be null.
  WallNotes(std::filesystem::path run_directory, std::string always, Log* log);

  /// A machine has started.
  void note(const std::string& walls, const std::string& shortfall);

  [[nodiscard]] WallReport report() const;

private:
  void write_down() const;

  std::filesystem::path run_directory_;
  std::string always_;
  Log* log_;
  mutable std::mutex mutex_;
  WallReport report_;
};

} // namespace nixbuild::sandbox
