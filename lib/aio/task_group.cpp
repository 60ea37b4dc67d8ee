#include <nixbuild/aio/task_group.hpp>
#include <nixbuild/base/error.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include <chrono>
#include <exception>
#include <list>
#include <mutex>

namespace nixbuild::aio {

namespace asio = boost::asio;

struct TaskGroup::State {
  struct Entry {
    std::string name;
    asio::any_io_executor executor;
    asio::cancellation_signal signal;
  };

  asio::any_io_executor executor;
  Log& log;
  mutable std::mutex mutex;
  std::list<Entry> entries;

  State(asio::any_io_executor e, Log& l) : executor(std::move(e)), log(l) {}

  void ended(std::list<Entry>::iterator entry, std::exception_ptr failure) {
    std::string name;
    {
      const std::lock_guard lock(mutex);
      name = std::move(entry->name);
      entries.erase(entry);
    }
    if (!failure) {
      return;
    }
    try {
      std::rethrow_exception(failure);
    } catch (const boost::system::system_error& error) {
      // What was cancelled, or had its descriptor closed, has only done what it was told.
      if (error.code() != asio::error::operation_aborted) {
        log.warning(name + ": " + error.what());
      }
    } catch (const std::exception& error) {
      log.warning(name + ": " + error.what());
    } catch (...) {
      // It would end the thread that it reaches, and with it the program.
      log.error(name + ": ended by something that is no error");
    }
  }
};

TaskGroup::TaskGroup(asio::any_io_executor executor, Log& log)
    : state_(std::make_shared<State>(std::move(executor), log)) {}

TaskGroup::~TaskGroup() {
  cancel();
}

void TaskGroup::spawn(std::string name, Task<void> task) {
  spawn(std::move(name), std::move(task), asio::make_strand(state_->executor));
}

void TaskGroup::spawn(std::string name, Task<void> task, asio::any_io_executor executor) {
  std::list<State::Entry>::iterator entry;
  {
    const std::lock_guard lock(state_->mutex);
    entry = state_->entries.emplace(state_->entries.end());
    entry->name = std::move(name);
    entry->executor = executor;
  }
  auto state = state_;
  asio::co_spawn(executor,
                 std::move(task),
                 asio::bind_cancellation_slot(entry->signal.slot(),
                                              [state, entry](std::exception_ptr failure) {
                                                state->ended(entry, std::move(failure));
                                              }));
}

void TaskGroup::cancel() {
  const std::lock_guard lock(state_->mutex);
  for (auto entry = state_->entries.begin(); entry != state_->entries.end(); ++entry) {
    // A signal may only be used on the executor its task runs on; the entry is looked up again
    // there because the task may have ended by then.
    auto state = state_;
    const auto* wanted = &*entry;
    asio::post(entry->executor, [state, wanted] {
      asio::cancellation_signal* signal = nullptr;
      {
        const std::lock_guard inner(state->mutex);
        for (auto& candidate : state->entries) {
          if (&candidate == wanted) {
            signal = &candidate.signal;
          }
        }
      }
      if (signal != nullptr) {
        signal->emit(asio::cancellation_type::terminal);
      }
    });
  }
}

std::size_t TaskGroup::running() const {
  const std::lock_guard lock(state_->mutex);
  return state_->entries.size();
}

Task<void> TaskGroup::join() {
  auto state = state_;
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (;;) {
    {
      const std::lock_guard lock(state->mutex);
      if (state->entries.empty()) {
        co_return;
      }
    }
    timer.expires_after(std::chrono::milliseconds(5));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

} // namespace nixbuild::aio
