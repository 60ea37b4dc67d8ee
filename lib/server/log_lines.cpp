#include "log_lines.hpp"

#include <boost/json.hpp>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

constexpr std::string_view kControlMark = "@nix ";
constexpr std::uint64_t kMostVerbose = 7;

std::optional<std::uint64_t> number_of_member(const json::object& object, std::string_view name) {
  const auto* member = object.if_contains(json::string_view(name.data(), name.size()));
  if (member == nullptr || !member->is_number()) {
    return std::nullopt;
  }
  json::error_code unfit;
  const auto number = member->to_number<std::uint64_t>(unfit);
  return unfit ? 0 : number;
}

std::optional<std::string> text_of_member(const json::object& object, std::string_view name) {
  const auto* member = object.if_contains(json::string_view(name.data(), name.size()));
  if (member == nullptr || !member->is_string()) {
    return std::nullopt;
  }
  return std::string(member->get_string().data(), member->get_string().size());
}

} // namespace

void LogLines::feed(std::string_view bytes, const Take& take) {
  for (const char byte : bytes) {
    if (byte == '\n') {
      take(std::exchange(line_, std::string()));
      returned_ = false;
      continue;
    }
    if (std::exchange(returned_, byte == '\r')) {
      line_.clear();
    }
    if (byte != '\r') {
      line_ += byte;
      if (line_.size() >= kLongestLine) {
        take(std::exchange(line_, std::string()));
      }
    }
  }
}

void LogLines::finish(const Take& take) {
  if (!line_.empty()) {
    take(std::exchange(line_, std::string()));
  }
  returned_ = false;
}

std::optional<ControlLine> parse_control_line(std::string_view line) {
  if (!line.starts_with(kControlMark)) {
    return std::nullopt;
  }
  line.remove_prefix(kControlMark.size());
  json::error_code error;
  const auto value = json::parse(json::string_view(line.data(), line.size()), error);
  if (error || !value.is_object()) {
    return std::nullopt;
  }
  const auto& object = value.get_object();
  const auto action = text_of_member(object, "action");
  if (action == "setPhase") {
    if (auto phase = text_of_member(object, "phase")) {
      return PhaseBegun{std::move(*phase)};
    }
    return std::nullopt;
  }
  if (action == "msg") {
    const auto level = number_of_member(object, "level");
    auto text = text_of_member(object, "msg");
    if (level && text) {
      return MessageFromBuilder{std::min(*level, kMostVerbose), std::move(*text)};
    }
    return std::nullopt;
  }
  const bool whole = action && (action != "start" || number_of_member(object, "type")) &&
                     ((action != "stop" && action != "result") || number_of_member(object, "id"));
  if (whole) {
    return OtherControl{};
  }
  return std::nullopt;
}

} // namespace nixbuild::server
