#pragma once

#include <nixbuild/base/error.hpp>
#include <nixbuild/base/log.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace nixbuild::server {

/// The requests of one session that failed. The first of each kind is logged as it comes, the
/// others as one line at the session's end, so that a client cannot fill the log with them.
class Refusals {
public:
  explicit Refusals(Log& log) : log_(log) {}

  ~Refusals();
  Refusals(const Refusals&) = delete;
  Refusals& operator=(const Refusals&) = delete;

  /// `request`: its name.
  void note(std::string_view request, const Error& error);

private:
  Log& log_;
  std::map<std::string, std::uint64_t, std::less<>> more_; ///< code → how many more than the first
  std::uint64_t others_ = 0;                               ///< of further kinds
};

} // namespace nixbuild::server
