#pragma once

#include <nixbuild/aio/task.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

#include <exception>
#include <utility>

namespace nixbuild::test {

/// Runs one coroutine on a loop of its own until the loop has nothing left to do; rethrows what it
/// threw.
inline void run_task(boost::asio::io_context& io, aio::Task<void> task) {
  std::exception_ptr failure;
  boost::asio::co_spawn(boost::asio::make_strand(io),
                        std::move(task),
                        [&failure](std::exception_ptr error) { failure = std::move(error); });
  io.run();
  io.restart();
  if (failure) {
    std::rethrow_exception(failure);
  }
}

} // namespace nixbuild::test
