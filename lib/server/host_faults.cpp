#include "host_faults.hpp"

#include <nixbuild/base/descriptor.hpp>

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

namespace nixbuild::server {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFile = "host-fault";
constexpr std::size_t kMostWords = 2000;

} // namespace

HostFaults::HostFaults(fs::path state_dir, const Clock& clock, Log& log)
    : file_(std::move(state_dir) / kFile), clock_(clock), log_(log) {
  std::error_code ignored;
  fs::remove(file_, ignored);
}

void HostFaults::closed(const std::string& reason) {
  ++count_;
  closed_.store(true);
  log_.error(fmt::format("no machine works on this host, builds fail: {}", reason));
  write_down("no machine works, builds fail", reason);
}

void HostFaults::without_kvm(const std::string& reason) {
  ++count_;
  without_kvm_.store(true);
  log_.error(fmt::format("KVM is not used any more, software emulation is: {}", reason));
  write_down("KVM is not used any more, builds run under software emulation", reason);
}

void HostFaults::passed(const std::string& reason) {
  ++count_;
  log_.warning(
      fmt::format("a machine ended by a fault of this host that others do not have: {}", reason));
}

void HostFaults::works() {
  if (closed_.exchange(false)) {
    log_.info("machines work on this host again");
    if (!without_kvm_.load()) {
      const std::lock_guard lock(mutex_);
      std::error_code ignored;
      fs::remove(file_, ignored);
    }
  }
}

/// A file that cannot be written must not make things worse.
void HostFaults::write_down(const std::string& what, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  auto words = fmt::format("since {:%Y-%m-%d %H:%M:%S} UTC {}: {}",
                           fmt::gmtime(std::chrono::system_clock::to_time_t(clock_.wall())),
                           what,
                           reason.substr(0, kMostWords));
  std::replace(words.begin(), words.end(), '\n', ' ');
  words += '\n';
  const UniqueFd file(
      ::open(file_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file || ::write(file.get(), words.data(), words.size()) < 0) {
    log_.warning("what keeps machines from running cannot be written down for doctor");
  }
}

LateExecutor::Told teller_of(HostFaults& faults) {
  LateExecutor::Told told;
  told.fault = [&faults](const sandbox::HostVerdict& verdict) {
    switch (verdict.use) {
    case sandbox::HostVerdict::Use::AsBefore:
      faults.passed(verdict.reason);
      break;
    case sandbox::HostVerdict::Use::Emulation:
      faults.without_kvm(verdict.reason);
      break;
    case sandbox::HostVerdict::Use::Nothing:
      faults.closed(verdict.reason);
      break;
    }
  };
  told.works = [&faults] {
    faults.works();
  };
  return told;
}

std::optional<std::string> host_fault_in(const fs::path& state_dir) {
  std::ifstream file(state_dir / kFile);
  std::string words;
  if (!std::getline(file, words)) {
    return std::nullopt;
  }
  return words;
}

} // namespace nixbuild::server
