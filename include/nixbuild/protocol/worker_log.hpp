#pragma once

#include <nixbuild/base/api.hpp>

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

/// What a worker server says while an operation runs: the stderr channel inside the connection.
/// Source: protocol facts 3.3.
namespace nixbuild::protocol::worker {

enum class Level : std::uint8_t {
  Error = 0,
  Warn = 1,
  Notice = 2,
  Info = 3,
  Talkative = 4,
  Chatty = 5,
  Debug = 6,
  Vomit = 7,
};

/// Numbers outside it come through as they are.
enum class ActivityType : std::uint32_t {
  Unknown = 0,
  CopyPath = 100,
  FileTransfer = 101,
  Realise = 102,
  CopyPaths = 103,
  Builds = 104,
  Build = 105, ///< fields: derivation's path, machine name or empty, 1, 1
  OptimiseStore = 106,
  VerifyPaths = 107,
  Substitute = 108,
  QueryPathInfo = 109,
  PostBuildHook = 110,
  BuildWaiting = 111,
  FetchTree = 112,
  FetchToStore = 113,
};

/// Numbers outside it come through as they are.
enum class ResultType : std::uint32_t {
  FileLinked = 100,
  BuildLogLine = 101, ///< field: the line; on an open activity of type Build
  UntrustedPath = 102,
  CorruptedPath = 103,
  SetPhase = 104,    ///< field: the phase
  Progress = 105,    ///< fields: done, expected, running, failed
  SetExpected = 106, ///< fields: activity type, number
  PostBuildLogLine = 107,
  FetchStatus = 108,
  FetchToStore = 109,
};

using LogField = std::variant<std::uint64_t, std::string>;

/// Text to print, with its line end. Build output is no such text but results BuildLogLine.
struct LogText {
  std::string text;
  bool operator==(const LogText&) const = default;
};

/// The server asks for the next part of a NAR, at most `most` bytes (AddToStoreNar 1.21, 1.22).
struct DataWanted {
  std::uint64_t most = 0;
  bool operator==(const DataWanted&) const = default;
};

/// Bytes for a sink of the caller's. No operation of these versions uses it.
struct DataGiven {
  std::string bytes;
  bool operator==(const DataGiven&) const = default;
};

/// The operation succeeded; its reply follows.
struct Last {
  bool operator==(const Last&) const = default;
};

/// The operation failed; no reply follows and the connection remains in use.
struct Failure {
  Level level = Level::Error;
  std::string message;
  std::vector<std::string> traces; ///< from 1.26
  std::uint64_t exit_status = 1;   ///< below 1.26 only
  std::string name = "Error";      ///< from 1.26; no reader looks at it
  bool operator==(const Failure&) const = default;
};

struct StartActivity {
  std::uint64_t id = 0; ///< not 0, unique among those of the connection
  Level level = Level::Info;
  ActivityType type = ActivityType::Unknown;
  std::string text;
  std::vector<LogField> fields;
  std::uint64_t parent = 0; ///< 0: none
  bool operator==(const StartActivity&) const = default;
};

struct StopActivity {
  std::uint64_t id = 0;
  bool operator==(const StopActivity&) const = default;
};

struct ActivityResult {
  std::uint64_t id = 0;
  ResultType type = ResultType::BuildLogLine;
  std::vector<LogField> fields;
  bool operator==(const ActivityResult&) const = default;
};

using LogMessage = std::variant<LogText,
                                DataWanted,
                                DataGiven,
                                Last,
                                Failure,
                                StartActivity,
                                StopActivity,
                                ActivityResult>;

} // namespace nixbuild::protocol::worker
