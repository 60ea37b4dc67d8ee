#include "activity_log.hpp"

#include <utility>
#include <variant>

namespace nixbuild::server {

namespace worker = protocol::worker;

ActivityLog::ActivityLog(std::shared_ptr<SharedWriter> out,
                         worker::Peer peer,
                         std::shared_ptr<std::uint64_t> last_id,
                         std::string derivation,
                         std::size_t tail_lines)
    : out_(std::move(out)), peer_(std::move(peer)), last_id_(std::move(last_id)),
      derivation_(std::move(derivation)), tail_(tail_lines) {}

void ActivityLog::say(const worker::LogMessage& message) {
  worker::write_log(gathered_, peer_, message);
}

aio::Task<void> ActivityLog::send() {
  std::string gathered = std::exchange(gathered_, std::string());
  if (!gathered.empty()) {
    co_await out_->write(std::move(gathered));
  }
}

aio::Task<void> ActivityLog::begin() {
  id_ = ++*last_id_;
  worker::StartActivity start;
  start.id = id_;
  start.level = worker::Level::Info;
  start.type = worker::ActivityType::Build;
  start.text = "building '" + derivation_ + "'";
  // The derivation, no other machine, round 1 of 1.
  start.fields = {derivation_, std::string(), std::uint64_t{1}, std::uint64_t{1}};
  say(start);
  co_await send();
}

void ActivityLog::say_line(std::string line) {
  const auto control = parse_control_line(line);
  if (!control) {
    tail_.add(line);
    say(worker::ActivityResult{id_, worker::ResultType::BuildLogLine, {std::move(line)}});
  } else if (const auto* phase = std::get_if<PhaseBegun>(&*control)) {
    say(worker::ActivityResult{id_, worker::ResultType::SetPhase, {phase->phase}});
  } else if (const auto* message = std::get_if<MessageFromBuilder>(&*control)) {
    say(worker::LogText{message->text + "\n"});
  }
}

aio::Task<void> ActivityLog::take_log(std::string bytes) {
  const auto take = [this](std::string line) {
    say_line(std::move(line));
  };
  lines_.feed(bytes, take);
  co_await send();
}

aio::Task<void> ActivityLog::end(const model::BuildResult&) {
  const auto take = [this](std::string line) {
    say_line(std::move(line));
  };
  lines_.finish(take);
  say(worker::StopActivity{id_});
  co_await send();
}

std::string ActivityLog::explanation(std::string_view derivation) const {
  return tail_.text(derivation);
}

aio::Task<void> ActivityLog::say_failure(std::string text) {
  say(worker::LogText{"error: " + text + "\n"});
  co_await send();
}

} // namespace nixbuild::server
