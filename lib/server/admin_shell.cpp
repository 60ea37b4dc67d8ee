#include "admin_call.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/server/command_words.hpp>

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <optional>
#include <utility>

namespace nixbuild::server {

namespace {

constexpr std::string_view kPrompt = "nixbuild> ";
constexpr std::string_view kGreeting =
    "One command a line, as behind `nixbuild`; `help` lists them, `exit` ends.\n";
constexpr std::size_t kMostLine = 64 * kKiB;
constexpr std::chrono::hours kSilence{1};
constexpr std::chrono::seconds kSlowTerminal{60};

class Lines {
public:
  explicit Lines(std::shared_ptr<aio::ByteStream> in) : in_(std::move(in)) {}

  /// The next one without its end, or nothing at the end of the input.
  aio::Task<std::optional<std::string>> next() {
    std::array<std::uint8_t, 4096> buffer{};
    for (;;) {
      if (const auto end = held_.find('\n'); end != std::string::npos) {
        std::string line = held_.substr(0, end);
        held_.erase(0, end + 1);
        co_return line;
      }
      if (held_.size() > kMostLine) {
        throw Error(Reaction::Reject,
                    "admin.line",
                    fmt::format("a line has more than {} bytes", kMostLine));
      }
      const auto count = co_await in_->read_some(buffer, kSilence);
      if (count == 0) {
        if (held_.empty()) {
          co_return std::nullopt;
        }
        co_return std::exchange(held_, {});
      }
      held_.append(reinterpret_cast<const char*>(buffer.data()), count);
    }
  }

private:
  std::shared_ptr<aio::ByteStream> in_;
  std::string held_;
};

/// `help gc` is `gc --help`; `nixbuild gc` is `gc`.
void translate(std::vector<std::string>& words) {
  if (words.front() == "nixbuild" && words.size() > 1) {
    words.erase(words.begin());
  }
  if (words.front() == "help") {
    words.erase(words.begin());
    words.emplace_back("--help");
  }
}

} // namespace

aio::Task<int> run_admin_shell(const SessionParts& parts,
                               Handoff handoff,
                               std::shared_ptr<aio::ByteStream> in,
                               std::shared_ptr<aio::ByteStream> out,
                               std::shared_ptr<aio::ByteStream> err) {
  Lines lines(std::move(in));
  int status = 0;
  co_await err->write_all(bytes_of(kGreeting), kSlowTerminal);
  for (;;) {
    co_await err->write_all(bytes_of(kPrompt), kSlowTerminal);
    const auto line = co_await lines.next();
    if (!line) {
      break;
    }
    auto words = split_words(*line);
    if (words.empty()) {
      continue;
    }
    if (words.front() == "exit" || words.front() == "quit") {
      break;
    }
    translate(words);
    Handoff one = handoff;
    one.arguments = std::move(words);
    status = co_await run_admin_command(parts, std::move(one), nullptr, out, err);
  }
  co_return status;
}

} // namespace nixbuild::server
