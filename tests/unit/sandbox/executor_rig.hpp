#pragma once

#include "support/scratch_folder.hpp"

#include <nixbuild/sandbox/qemu_executor.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace nixbuild::tests {

/// What one build told, from its start to its end.
struct Record {
  std::vector<std::string> phases;
  std::vector<std::chrono::microseconds> phase_times;
  std::string log;
  sandbox::GuestExit exit;
};

/// Folders and settings of an executor whose "emulator" is the fake one in this role.
sandbox::QemuExecutorSettings fake_settings(const ScratchFolder& folder, const std::string& role);

/// A plan with a disk of one block of zeros.
sandbox::ExecutionPlan small_plan(const ScratchFolder& folder, std::vector<std::string> outputs);

/// Takes events until the builder has exited.
aio::Task<Record> follow(sandbox::Execution& execution);

/// A whole output.
aio::Task<std::string> collect(sandbox::Execution& execution, std::size_t index);

/// Runs a coroutine to its end; rethrows.
template <class T>
T run_on(boost::asio::io_context& io, aio::Task<T> task) {
  std::exception_ptr failure;
  if constexpr (std::is_void_v<T>) {
    boost::asio::co_spawn(io, std::move(task), [&](std::exception_ptr error) { failure = error; });
    io.run();
    io.restart();
    if (failure) {
      std::rethrow_exception(failure);
    }
  } else {
    std::optional<T> result;
    boost::asio::co_spawn(io, std::move(task), [&](std::exception_ptr error, T value) {
      failure = error;
      result.emplace(std::move(value));
    });
    io.run();
    io.restart();
    if (failure) {
      std::rethrow_exception(failure);
    }
    return std::move(*result);
  }
}

/// The error code that the task ends with; `none` when it ends well.
std::string code_of(boost::asio::io_context& io, aio::Task<void> task);

/// Waits up to some seconds until the condition holds.
bool eventually(const std::function<bool()>& condition);

} // namespace nixbuild::tests
