#pragma once

#include <boost/asio/awaitable.hpp>

namespace nixbuild::aio {

/// A coroutine of this library. Errors are exceptions. Never awaited twice. Cancellation: terminal
/// only, unless its declaration says more.
template <class T = void>
using Task = boost::asio::awaitable<T>;

} // namespace nixbuild::aio
