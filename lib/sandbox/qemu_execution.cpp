#include "sandbox/qemu_execution.hpp"

#include "sandbox/run_folders.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

#include <boost/asio/steady_timer.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

namespace nixbuild::sandbox {

namespace {

/// The emulator answers within a second; a loaded host may take longer.
constexpr std::chrono::seconds kBeginPatience{60};
constexpr std::chrono::seconds kFinishPatience{8};

[[noreturn]] void unexpected(const char* when) {
  throw Error(Reaction::Internal,
              "sandbox.runner-protocol",
              fmt::format("the runner sent a message that does not belong {}", when));
}

Reaction reaction_of(std::string_view code) {
  return code == "sandbox.disk" ? Reaction::Reject : Reaction::Internal;
}

/// Cancels a link when a time has passed, unless it is destroyed before.
class Deadline {
public:
  Deadline(const boost::asio::any_io_executor& executor,
           RunnerLink& link,
           std::chrono::seconds after)
      : timer_(executor, after), state_(std::make_shared<State>()) {
    state_->link = &link;
    timer_.async_wait([state = state_](boost::system::error_code error) {
      // A handler that was queued already runs after the destructor.
      if (!error && state->link != nullptr) {
        state->passed = true;
        state->link->cancel();
      }
    });
  }

  ~Deadline() { state_->link = nullptr; }

  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

  [[nodiscard]] bool passed() const { return state_->passed; }

private:
  struct State {
    RunnerLink* link = nullptr;
    bool passed = false;
  };

  boost::asio::steady_timer timer_;
  std::shared_ptr<State> state_;
};

} // namespace

QemuExecution::QemuExecution(boost::asio::any_io_executor executor,
                             UniqueFd socket,
                             RunFolder folder,
                             std::size_t outputs)
    : executor_(executor), link_(std::move(executor), std::move(socket)),
      folder_(std::move(folder)), outputs_(outputs) {}

QemuExecution::~QemuExecution() {
  if (!over_) {
    link_.send_now(runner::Kill{});
  }
  if (link_.gone() && !said_last_) {
    clear_after_runner(folder_.directory, folder_.cgroup);
  }
}

aio::Task<runner::Message> QemuExecution::receive() {
  auto message = co_await link_.receive();
  if (auto* failed = std::get_if<runner::Failed>(&message)) {
    over_ = true;
    said_last_ = true;
    throw Error(reaction_of(failed->code), failed->code, failed->message);
  }
  co_return message;
}

aio::Task<runner::Accepted> QemuExecution::begin(runner::Start start,
                                                 UniqueFd kernel,
                                                 UniqueFd initramfs,
                                                 std::vector<DiskExtent> disk) {
  const Deadline deadline(executor_, link_, kBeginPatience);
  try {
    start.extents = static_cast<std::uint32_t>(disk.size());
    const std::vector<int> first{kernel.get(), initramfs.get()};
    runner::Message opening(std::move(start));
    co_await link_.send(std::move(opening), first);
    for (std::size_t at = 0; at < disk.size(); at += runner::kMaxExtentsPerMessage) {
      runner::Extents batch;
      std::vector<int> descriptors;
      const auto end = std::min(disk.size(), at + runner::kMaxExtentsPerMessage);
      for (auto i = at; i < end; ++i) {
        batch.ranges.push_back({disk[i].offset, disk[i].length});
        descriptors.push_back(disk[i].fd.get());
      }
      runner::Message message(std::move(batch));
      co_await link_.send(std::move(message), descriptors);
    }
    runner::Message attach(runner::Attach{});
    co_await link_.send(std::move(attach));
    auto answer = co_await receive();
    // Only a runner that has failed tells of its phases first.
    while (std::holds_alternative<runner::Phase>(answer)) {
      answer = co_await receive();
    }
    auto* accepted = std::get_if<runner::Accepted>(&answer);
    if (accepted == nullptr) {
      unexpected("before it has accepted the plan");
    }
    co_return std::move(*accepted);
  } catch (const Error& error) {
    if (deadline.passed()) {
      throw Error(
          Reaction::Timeout, "sandbox.spawn", "the runner did not start the emulator in time");
    }
    if (error.code() == "sandbox.lost") {
      throw Error(Reaction::Internal, "sandbox.spawn", error.message());
    }
    throw;
  }
}

aio::Task<void> QemuExecution::attach(std::uint64_t log_offset,
                                      std::optional<std::chrono::microseconds> age) {
  age_ = age;
  const Deadline deadline(executor_, link_, kBeginPatience);
  log_offset_ = log_offset;
  runner::Attach attach;
  attach.log_offset = log_offset;
  runner::Message message(attach);
  co_await link_.send(std::move(message));
}

aio::Task<ExecutionEvent> QemuExecution::next_event() {
  auto message = co_await receive();
  if (const auto* measured = std::get_if<runner::Measured>(&message)) {
    measured_ = *measured;
    message = co_await receive();
  }
  if (auto* log = std::get_if<runner::LogData>(&message)) {
    if (log->offset != log_offset_ || exited_) {
      unexpected("to this place of the log");
    }
    log_offset_ += log->bytes.size();
    ExecutionEvent event(LogChunk{std::move(log->bytes)});
    co_return event;
  }
  if (auto* phase = std::get_if<runner::Phase>(&message)) {
    ExecutionEvent event(
        PhaseBegan{std::move(phase->name), std::chrono::microseconds(phase->since_start_us)});
    co_return event;
  }
  if (auto* exited = std::get_if<runner::Exited>(&message)) {
    exited_ = true;
    BuilderExited end;
    end.exit = decode_guest_exit(exited->exit);
    if (end.exit.outputs.size() != outputs_) {
      throw Error(Reaction::Reject,
                  "sandbox.protocol",
                  fmt::format("the guest told of {} outputs, the job has {}",
                              end.exit.outputs.size(),
                              outputs_));
    }
    if (measured_) {
      end.cpu_of_host =
          std::chrono::microseconds(measured_->cpu_user_us + measured_->cpu_system_us);
    }
    ExecutionEvent event(std::move(end));
    co_return event;
  }
  if (const auto* conversation = std::get_if<runner::Conversation>(&message)) {
    StoreConversation begun;
    begun.channel = conversation->channel;
    begun.socket = link_.take_descriptor();
    ExecutionEvent event(std::move(begun));
    co_return event;
  }
  unexpected("while the builder runs");
}

aio::Task<void> QemuExecution::open_output(std::size_t index) {
  if (index >= outputs_) {
    throw Error(Reaction::Reject,
                "sandbox.output",
                fmt::format("output {} was asked for, the job has {}", index, outputs_));
  }
  co_await ask_for_output(index);
}

aio::Task<void> QemuExecution::open_terminal() {
  co_await ask_for_output(outputs_);
}

aio::Task<void>
QemuExecution::type_in(std::string bytes, std::uint32_t rows, std::uint32_t columns) {
  runner::Input input;
  input.bytes = std::move(bytes);
  input.rows = rows;
  input.columns = columns;
  runner::Message message(std::move(input));
  co_await link_.send(std::move(message));
}

aio::Task<void> QemuExecution::ask_for_output(std::size_t index) {
  output_.clear();
  output_taken_ = 0;
  runner::Message request(runner::Output{static_cast<std::uint32_t>(index)});
  co_await link_.send(std::move(request));
  output_open_ = true;
}

aio::Task<std::size_t> QemuExecution::read_output(MutableBytes buffer) {
  while (output_open_ && output_taken_ == output_.size()) {
    auto message = co_await receive();
    if (auto* data = std::get_if<runner::OutputData>(&message)) {
      output_ = std::move(data->bytes);
      output_taken_ = 0;
    } else if (std::holds_alternative<runner::OutputEnd>(message)) {
      output_open_ = false;
    } else if (auto* failed = std::get_if<runner::OutputFailed>(&message)) {
      output_open_ = false;
      throw Error(Reaction::Reject, "sandbox.output", failed->reason);
    } else if (std::holds_alternative<runner::Conversation>(message)) {
      (void)link_.take_descriptor(); // begun as the builder ended: closed at once
    } else if (!std::holds_alternative<runner::Phase>(message)) {
      unexpected("among an output's bytes");
    }
  }
  const auto size = std::min(buffer.size(), output_.size() - output_taken_);
  std::memcpy(buffer.data(), output_.data() + output_taken_, size);
  output_taken_ += size;
  co_return size;
}

aio::Task<void> QemuExecution::wait_until_down() {
  const Deadline deadline(executor_, link_, kFinishPatience);
  runner::Message request(runner::Finish{});
  co_await link_.send(std::move(request));
  for (;;) {
    const auto message = co_await receive();
    if (const auto* down = std::get_if<runner::Down>(&message)) {
      usage_.peak_rss_bytes = down->peak_rss_bytes;
      usage_.cpu_user = std::chrono::microseconds(down->cpu_user_us);
      usage_.cpu_system = std::chrono::microseconds(down->cpu_system_us);
      over_ = true;
      said_last_ = true;
      co_return;
    }
  }
}

aio::Task<void> QemuExecution::finish() {
  try {
    co_await wait_until_down();
  } catch (const Error&) {
    // Down or not, nothing of it is needed any more.
    link_.send_now(runner::Kill{});
    over_ = true;
  }
}

void QemuExecution::cancel() noexcept {
  link_.send_now(runner::Kill{});
  link_.cancel();
}

void QemuExecution::detach() noexcept {
  over_ = true; // so that nothing is killed: the runner sees the connection end
  link_.cancel();
}

} // namespace nixbuild::sandbox
