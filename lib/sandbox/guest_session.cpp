#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

#include <fmt/format.h>

#include <utility>

namespace nixbuild::sandbox {

namespace {

[[noreturn]] void violated(std::string message) {
  throw Error(Reaction::Reject, "sandbox.protocol", std::move(message));
}

} // namespace

GuestSession::GuestSession(const GuestJob& job)
    : job_frame_(guest::encode(guest::Job{job})), outputs_(job.outputs.size()),
      probe_(job.probe_only) {}

void GuestSession::feed_control(ByteView bytes) {
  control_.feed(bytes);
  while (const auto frame = control_.next()) {
    if (state_ == State::Down) {
      violated("the guest went on after its failure");
    }
    accept(guest::decode_from_guest(*frame));
  }
}

void GuestSession::accept(guest::FromGuest message) {
  if (auto* failure = std::get_if<guest::Failure>(&message)) {
    state_ = State::Down;
    events_.push_back(GuestFailure{std::move(failure->text)});
  } else if (const auto* hello = std::get_if<guest::Hello>(&message)) {
    if (state_ != State::Booting) {
      violated("the guest said hello twice");
    }
    if (hello->version != guest::kProtocolVersion) {
      violated(fmt::format(
          "the guest speaks version {} instead of {}", hello->version, guest::kProtocolVersion));
    }
    state_ = State::Preparing;
    outgoing_ += std::exchange(job_frame_, {});
    events_.push_back(GuestHello{hello->boot_time});
  } else if (std::holds_alternative<guest::Started>(message)) {
    if (state_ != State::Preparing || probe_) {
      violated("the guest started a builder out of turn");
    }
    state_ = State::Running;
    events_.push_back(GuestStarted{});
  } else if (auto* exited = std::get_if<guest::Exited>(&message)) {
    accept_exit(std::move(exited->exit));
  } else if (auto* end = std::get_if<guest::OutputEnd>(&message)) {
    if (!output_ || output_->told || end->index != output_->index) {
      violated(fmt::format("the guest ended output {}, which was not asked for", end->index));
    }
    output_->told = std::move(end->error);
    release_output();
  }
}

void GuestSession::accept_exit(GuestExit exit) {
  const bool unstarted =
      state_ == State::Preparing && (probe_ || exit.end == GuestEnd::SetupFailed);
  if (exit_ || (state_ != State::Running && !unstarted)) {
    violated("the guest told of an exit out of turn");
  }
  if (exit.outputs.size() != outputs_) {
    violated(
        fmt::format("the guest told of {} outputs, the job has {}", exit.outputs.size(), outputs_));
  }
  exit_ = std::move(exit);
  release_exit();
}

void GuestSession::feed_log(std::size_t size) {
  // What the log held when the guest gave up may still be on its way.
  if (size == 0 || state_ == State::Down) {
    return;
  }
  if (state_ != State::Preparing && state_ != State::Running) {
    violated(fmt::format("{} bytes of log while no builder runs", size));
  }
  log_bytes_ += size;
  release_exit();
}

void GuestSession::release_exit() {
  if (!exit_) {
    return;
  }
  if (log_bytes_ > exit_->log_bytes) {
    violated(
        fmt::format("{} bytes of log, but the guest announced {}", log_bytes_, exit_->log_bytes));
  }
  if (log_bytes_ == exit_->log_bytes) {
    state_ = State::Exited;
    events_.push_back(GuestExited{std::move(*exit_)});
    exit_.reset();
  }
}

void GuestSession::feed_output(ByteView bytes, ByteSink& sink) {
  if (bytes.empty()) {
    return;
  }
  if (!output_) {
    violated(fmt::format("{} bytes of an output that was not asked for", bytes.size()));
  }
  if (frames_.feed(bytes, sink) != bytes.size()) {
    violated(fmt::format("bytes after the end of output {}", output_->index));
  }
  release_output();
}

void GuestSession::release_output() {
  if (output_->told && frames_.ended()) {
    events_.push_back(GuestOutputEnd{output_->index, std::move(*output_->told)});
    output_.reset();
  }
}

std::optional<GuestEvent> GuestSession::next_event() {
  if (events_.empty()) {
    return std::nullopt;
  }
  auto event = std::move(events_.front());
  events_.pop_front();
  return event;
}

void GuestSession::send_output(std::uint32_t index) {
  if (state_ != State::Exited || output_ || index > outputs_) {
    violated(fmt::format("output {} cannot be asked for now", index));
  }
  frames_.restart();
  output_.emplace(index);
  outgoing_ += guest::encode(guest::SendOutput{index});
}

void GuestSession::type(const guest::Input& input) {
  if (has_terminal()) {
    outgoing_ += guest::encode(input);
  }
}

void GuestSession::power_off() {
  if (state_ != State::Booting) {
    outgoing_ += guest::encode(guest::PowerOff{});
  }
}

std::string GuestSession::take_control() {
  return std::exchange(outgoing_, {});
}

} // namespace nixbuild::sandbox
