#include "support/fake_executor.hpp"

#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/error.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace nixbuild::tests {

namespace asio = boost::asio;
using sandbox::ExecutionEvent;

namespace {

class FakeExecution final : public sandbox::Execution {
public:
  FakeExecution(asio::any_io_executor executor,
                std::shared_ptr<FakeHost> host,
                std::shared_ptr<FakeRun> run,
                std::uint64_t log_offset)
      : timer_(std::move(executor)), host_(std::move(host)), build_(run->build),
        run_(std::move(run)), skip_(log_offset) {}

  ~FakeExecution() override {
    if (!run_->finished) {
      end(run_->cancelled);
    }
  }

  FakeExecution(const FakeExecution&) = delete;
  FakeExecution& operator=(const FakeExecution&) = delete;

  aio::Task<ExecutionEvent> next_event() override {
    if (phase_ < kPhases.size()) {
      sandbox::PhaseBegan began;
      began.phase = kPhases[phase_];
      began.since_start = std::chrono::microseconds(1000 * (phase_ + 1));
      ++phase_;
      ExecutionEvent event(std::move(began));
      co_return event;
    }
    if (piece_ < build_.log.size()) {
      auto& piece = build_.log[piece_++];
      if (piece.log.size() <= skip_) {
        skip_ -= piece.log.size();
        co_return co_await next_event();
      }
      co_await sleep(piece.before);
      piece.log.erase(0, std::exchange(skip_, 0));
      ExecutionEvent event(sandbox::LogChunk{std::move(piece.log)});
      co_return event;
    }
    co_await sleep(build_.before_exit);
    if (build_.lost) {
      throw Error(Reaction::Internal, build_.lost_code, *build_.lost);
    }
    run_->exited = true;
    sandbox::BuilderExited end;
    end.exit = build_.exit;
    end.cpu_of_host = build_.cpu_of_host;
    if (end.exit.outputs.empty()) {
      for (const auto& nar : build_.nars) {
        sandbox::GuestOutputState state;
        state.present = !nar.empty();
        end.exit.outputs.push_back(std::move(state));
      }
      end.exit.outputs.resize(run_->job.outputs.size());
    }
    ExecutionEvent event(std::move(end));
    co_return event;
  }

  aio::Task<void> open_output(std::size_t index) override {
    check_cancelled();
    if (index >= build_.nars.size() || build_.nars[index].empty()) {
      throw Error(Reaction::Reject, "sandbox.output", "the script makes no such output");
    }
    output_ = index;
    taken_ = 0;
    co_return;
  }

  aio::Task<void> open_terminal() override {
    check_cancelled();
    if (!build_.has_terminal) {
      co_await Execution::open_terminal();
    }
    screen_ = "$ ";
    terminal_ = true;
    in_terminal_ = true;
  }

  aio::Task<void> type_in(std::string bytes, std::uint32_t, std::uint32_t) override {
    if (!terminal_) {
      co_return;
    }
    screen_ += bytes;
    // The end of the input, a hang-up, or the word.
    terminal_ = terminal_ && !bytes.empty() && bytes.find("exit") == std::string::npos &&
                bytes.find('\x04') == std::string::npos;
    changed_.notify();
    co_return;
  }

  aio::Task<std::size_t> read_screen(MutableBytes buffer) {
    while (screen_.empty()) {
      if (!terminal_) {
        in_terminal_ = false;
        co_return 0;
      }
      const auto seen = changed_.count();
      co_await changed_.wait(seen);
    }
    const auto size = std::min(buffer.size(), screen_.size());
    std::memcpy(buffer.data(), screen_.data(), size);
    screen_.erase(0, size);
    co_return size;
  }

  aio::Task<std::size_t> read_output(MutableBytes buffer) override {
    check_cancelled();
    if (in_terminal_) {
      co_return co_await read_screen(buffer);
    }
    co_await sleep(build_.before_nar_piece);
    const auto& nar = build_.nars.at(output_);
    const auto size = std::min({buffer.size(), nar.size() - taken_, build_.nar_piece});
    std::memcpy(buffer.data(), nar.data() + taken_, size);
    taken_ += size;
    co_return size;
  }

  aio::Task<void> finish() override {
    end(run_->finished);
    co_return;
  }

  [[nodiscard]] std::optional<std::chrono::microseconds> age() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                                 run_->began);
  }

  void cancel() noexcept override {
    end(run_->cancelled);
    cancelled_ = true;
    timer_.cancel();
  }

  void detach() noexcept override {
    detached_ = true;
    cancelled_ = true;
    timer_.cancel();
  }

private:
  static constexpr std::array<const char*, 5> kPhases{"compose", "spawn", "boot", "mount", "build"};

  void end(bool& how) noexcept {
    if (!host_->daemon_killed && !detached_) {
      how = true;
      host_->machines.erase(run_->id);
    }
  }

  void check_cancelled() const {
    if (cancelled_) {
      throw Error(Reaction::Cancelled, "sandbox.cancelled", "the build was cancelled");
    }
  }

  aio::Task<void> sleep(std::chrono::milliseconds time) {
    check_cancelled();
    if (time.count() > 0) {
      timer_.expires_after(time);
      auto [error] = co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
      if (error) {
        throw Error(Reaction::Cancelled, "sandbox.cancelled", "the build was cancelled");
      }
      check_cancelled();
    }
  }

  asio::steady_timer timer_;
  std::shared_ptr<FakeHost> host_;
  FakeBuild build_;
  std::shared_ptr<FakeRun> run_;
  std::uint64_t skip_;
  bool detached_ = false;
  std::size_t phase_ = 0;
  std::size_t piece_ = 0;
  std::size_t output_ = 0;
  std::size_t taken_ = 0;
  bool cancelled_ = false;
  std::string screen_;
  bool terminal_ = false;    ///< its shell runs
  bool in_terminal_ = false; ///< what is read is the screen
  aio::Event changed_;
};

void add_text(std::string& nar, std::string_view text) {
  for (std::size_t i = 0; i < 8; ++i) {
    nar.push_back(static_cast<char>(text.size() >> (8 * i) & 0xff));
  }
  nar.append(text);
  nar.append((8 - text.size() % 8) % 8, '\0');
}

} // namespace

FakeExecutor::FakeExecutor(asio::any_io_executor executor,
                           Script script,
                           std::shared_ptr<FakeHost> host)
    : executor_(std::move(executor)), script_(std::move(script)), host_(std::move(host)) {}

aio::Task<std::unique_ptr<sandbox::Execution>>
FakeExecutor::adopt(std::string id, std::size_t, std::uint64_t log_offset) {
  if (host_->adopting_fails) {
    throw Error(Reaction::Internal, "sandbox.spawn", "no kernel");
  }
  const auto found = host_->machines.find(id);
  if (found == host_->machines.end()) {
    co_return nullptr;
  }
  ++found->second->adopted;
  co_return std::make_unique<FakeExecution>(executor_, host_, found->second, log_offset);
}

aio::Task<void> FakeExecutor::sweep(std::vector<std::string> kept) {
  std::erase_if(host_->machines, [&](const auto& entry) {
    const bool gone = std::find(kept.begin(), kept.end(), entry.first) == kept.end();
    if (gone) {
      host_->swept.push_back(entry.first);
    }
    return gone;
  });
  co_return;
}

aio::Task<std::unique_ptr<sandbox::Execution>> FakeExecutor::start(sandbox::ExecutionPlan plan) {
  auto run = std::make_shared<FakeRun>();
  run->id = plan.id;
  run->extents = plan.disk.size();
  for (const auto& extent : plan.disk) {
    run->disk_bytes += extent.length;
  }
  run->build = script_(plan);
  run->memory_bytes = plan.memory_bytes;
  run->scratch_bytes = plan.scratch_bytes;
  run->job = std::move(plan.job);
  runs_.push_back(run);
  if (run->build.no_start) {
    throw Error(Reaction::Internal, "sandbox.spawn", *run->build.no_start);
  }
  host_->machines[run->id] = run;
  co_return std::make_unique<FakeExecution>(executor_, host_, std::move(run), 0);
}

std::string nar_of_file(std::string_view contents, bool executable) {
  std::string nar;
  for (const auto* token : {"nix-archive-1", "(", "type", "regular"}) {
    add_text(nar, token);
  }
  if (executable) {
    add_text(nar, "executable");
    add_text(nar, "");
  }
  add_text(nar, "contents");
  add_text(nar, contents);
  add_text(nar, ")");
  return nar;
}

} // namespace nixbuild::tests
