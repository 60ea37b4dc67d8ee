#include "sandbox/run_folders.hpp"

#include <nixbuild/sandbox/cgroup.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;

bool is_plan_id(std::string_view text) noexcept {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
  });
}

std::vector<std::string> plans_in(const fs::path& run_directory) {
  std::vector<std::string> plans;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run_directory, ignored)) {
    auto name = entry.path().filename().string();
    if (entry.is_directory(ignored) && is_plan_id(name)) {
      plans.push_back(std::move(name));
    }
  }
  std::sort(plans.begin(), plans.end());
  return plans;
}

UniqueFd connect_to_runner(const fs::path& folder) {
  const UniqueFd directory(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!directory || !socket) {
    return {};
  }
  // A socket's address has room for 107 characters, the folder's path may be longer.
  const auto name = fmt::format("/proc/self/fd/{}/runner.sock", directory.get());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return {};
  }
  return socket;
}

std::optional<std::chrono::microseconds> age_of_runner(const UniqueFd& socket) noexcept {
  try {
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) {
      return std::nullopt;
    }
    std::ifstream file(fmt::format("/proc/{}/stat", peer.pid));
    std::string text;
    std::getline(file, text);
    // The program's name, in parentheses, may hold anything; field 22 is 20 behind it.
    std::istringstream fields(text.substr(std::min(text.rfind(')'), text.size() - 1) + 1));
    constexpr int before_start = 19;
    std::string skipped;
    for (int i = 0; i < before_start; ++i) {
      fields >> skipped;
    }
    std::uint64_t ticks = 0;
    timespec now{};
    if (!(fields >> ticks) || ::clock_gettime(CLOCK_BOOTTIME, &now) != 0) {
      return std::nullopt;
    }
    using std::chrono::microseconds;
    const auto hertz = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
    const microseconds began(static_cast<std::int64_t>(ticks * 1'000'000 / hertz));
    const microseconds since_boot =
        std::chrono::seconds(now.tv_sec) + microseconds(now.tv_nsec / 1000);
    return std::max(since_boot - began, microseconds(0));
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

void end_runner(const UniqueFd& socket) noexcept {
  try {
    const auto frame = runner::encode(runner::Kill{});
    [[maybe_unused]] const auto sent =
        ::send(socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  } catch (...) {
    // Then it ends by itself, later.
  }
}

void clear_after_runner(const fs::path& folder, const fs::path& cgroup) noexcept {
  try {
    if (const auto socket = connect_to_runner(folder)) {
      end_runner(socket);
    } else {
      remove_left_behind(folder, cgroup);
    }
  } catch (...) {
    // The next daemon's sweep finds it.
  }
}

void remove_left_behind(const fs::path& folder, const fs::path& cgroup) {
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  if (!cgroup.empty()) {
    remove_cgroup(cgroup);
  }
}

} // namespace nixbuild::sandbox
