#pragma once

#include "protocol/worker_tables.hpp"

#include <nixbuild/protocol/worker_log.hpp>

/// The messages of the stderr channel as tables. Source: protocol facts 3.3.
namespace nixbuild::protocol::worker {

/// Below it activities and their results are not sent.
inline constexpr Version kActivitiesSince{1, 20};

/// Error `worker.message` above Vomit.
struct LevelNumber : wire::WordShape {
  static constexpr std::string_view kind = "level";

  static void read(Decoder& decoder, Level& out);
  static void write(Encoder& encoder, Level value);
};

/// A number that stands for itself where no name is known.
template <class Enumeration>
struct Numbered : wire::WordShape {
  static constexpr std::string_view kind = "32-bit number";

  static void read(Decoder& decoder, Enumeration& out) {
    out = static_cast<Enumeration>(decoder.small());
  }

  static void write(Encoder& encoder, Enumeration value) {
    encoder.word(static_cast<std::uint64_t>(value));
  }
};

/// Error `worker.message` for tags other than 0 and 1.
struct LogFields {
  static constexpr std::string_view kind = "list of (0, number or 1, string)";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, std::vector<LogField>& out);
  static void write(Encoder& encoder, const std::vector<LogField>& value);
};

/// The text `Error`. Error `worker.message` for any other.
struct ErrorType : wire::StringShape {
  static constexpr std::string_view kind = "`Error`";

  static void read(Decoder& decoder, Failure& out);
  static void write(Encoder& encoder, const Failure& value);
};

/// A position in a source that is never there. Error `worker.message` when it is.
struct NoPosition : wire::WordShape {
  static constexpr std::string_view kind = "0: no position";

  static void read(Decoder& decoder, Failure& out);
  static void write(Encoder& encoder, const Failure& value);
};

/// Each with a position as NoPosition.
struct Traces {
  static constexpr std::string_view kind = "list of (0, string)";

  static void shape(Shape& shape, std::string_view field, const Dialect& dialect);
  static void read(Decoder& decoder, Failure& out);
  static void write(Encoder& encoder, const Failure& value);
};

template <>
struct Layout<LogText> {
  using Owner = LogText;
  static constexpr auto fields = std::tuple{wire::field<wire::String>("text", &Owner::text)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<DataWanted> {
  using Owner = DataWanted;
  static constexpr auto fields = std::tuple{wire::field<wire::Number>("most", &Owner::most)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<DataGiven> {
  using Owner = DataGiven;
  static constexpr auto fields = std::tuple{wire::field<wire::String>("bytes", &Owner::bytes)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<Last> : EmptyLayout<Last> {};

template <>
struct Layout<Failure> {
  using Owner = Failure;
  static constexpr Version kStructured{1, 26};
  static constexpr auto fields = std::tuple{
      wire::field<ErrorType>("type", wire::Whole(), kStructured),
      wire::field<LevelNumber>("level", &Owner::level, kStructured),
      wire::field<wire::String>("name", &Owner::name, kStructured),
      wire::field<wire::String>("message", &Owner::message),
      wire::field<NoPosition>("position", wire::Whole(), kStructured),
      wire::field<Traces>("traces", wire::Whole(), kStructured),
      wire::field<wire::Number>("status", &Owner::exit_status, wire::kFirst, Version{1, 25})};

  static Owner blank() { return {}; }
};

template <>
struct Layout<StartActivity> {
  using Owner = StartActivity;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Number>("id", &Owner::id),
                 wire::field<LevelNumber>("level", &Owner::level),
                 wire::field<Numbered<ActivityType>>("type", &Owner::type),
                 wire::field<wire::String>("text", &Owner::text),
                 wire::field<LogFields>("fields", &Owner::fields),
                 wire::field<wire::Number>("parent", &Owner::parent)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<StopActivity> {
  using Owner = StopActivity;
  static constexpr auto fields = std::tuple{wire::field<wire::Number>("id", &Owner::id)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<ActivityResult> {
  using Owner = ActivityResult;
  static constexpr auto fields = std::tuple{wire::field<wire::Number>("id", &Owner::id),
                                            wire::field<Numbered<ResultType>>("type", &Owner::type),
                                            wire::field<LogFields>("fields", &Owner::fields)};

  static Owner blank() { return {}; }
};

/// One row per kind of message.
struct LogForm {
  std::uint64_t code;
  std::string_view name; ///< the protocol's
  Version since;
  std::size_t index; ///< of its type in LogMessage
  void (*shape)(Shape&, const Dialect&);
  LogMessage (*read)(Decoder&);
};

template <class M>
constexpr LogForm log_form(std::uint64_t code, std::string_view name, Version since) {
  return {code,
          name,
          since,
          index_in<LogMessage, M>(),
          &wire::shape_fields<Layout<M>>,
          &read_alternative<LogMessage, M>};
}

inline constexpr std::array kLogForms{
    log_form<LogText>(0x6f6c6d67, "STDERR_NEXT", kOldestVersion),
    log_form<DataWanted>(0x64617461, "STDERR_READ", kOldestVersion),
    log_form<DataGiven>(0x64617416, "STDERR_WRITE", kOldestVersion),
    log_form<Last>(0x616c7473, "STDERR_LAST", kOldestVersion),
    log_form<Failure>(0x63787470, "STDERR_ERROR", kOldestVersion),
    log_form<StartActivity>(0x53545254, "STDERR_START_ACTIVITY", kActivitiesSince),
    log_form<StopActivity>(0x53544f50, "STDERR_STOP_ACTIVITY", kActivitiesSince),
    log_form<ActivityResult>(0x52534c54, "STDERR_RESULT", kActivitiesSince),
};

/// Row i belongs to alternative i of LogMessage.
constexpr bool rows_follow_messages() {
  for (std::size_t i = 0; i < kLogForms.size(); ++i) {
    if (kLogForms[i].index != i) {
      return false;
    }
  }
  return kLogForms.size() == std::variant_size_v<LogMessage>;
}

static_assert(rows_follow_messages());

} // namespace nixbuild::protocol::worker
