#pragma once

#include <string_view>

namespace nixbuild {

enum class LogLevel { Debug, Info, Warning, Error };

/// Where a part of the library says what it does. A library owns no logger: programs hand one in.
/// Implementations are thread safe and never throw.
class Log {
public:
  virtual ~Log() = default;
  virtual void write(LogLevel level, std::string_view message) noexcept = 0;

  void debug(std::string_view message) noexcept { write(LogLevel::Debug, message); }

  void info(std::string_view message) noexcept { write(LogLevel::Info, message); }

  void warning(std::string_view message) noexcept { write(LogLevel::Warning, message); }

  void error(std::string_view message) noexcept { write(LogLevel::Error, message); }
};

/// A log that forgets. Where none is given.
class NullLog final : public Log {
public:
  void write(LogLevel, std::string_view) noexcept override {}
};

} // namespace nixbuild
