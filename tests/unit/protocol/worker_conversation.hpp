#pragma once

#include "unit/protocol/conversation.hpp"

#include <nixbuild/protocol/worker.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Takes recorded worker conversations apart and puts them together again.
namespace nixbuild::test {

namespace worker = protocol::worker;

/// What a hello announces.
struct Announcement {
  protocol::Version version = worker::kNewestVersion;
  worker::Features features; ///< none where the smaller version is below 1.38
};

/// Both announcements of a recording.
struct Announcements {
  Announcement client;
  Announcement server;
};

Announcements announcements(const Recording& recording);

struct WorkerAsked {
  worker::Request request;
  std::vector<std::string> frames; ///< cut as the bytes were fed

  [[nodiscard]] std::string payload() const;
  bool operator==(const WorkerAsked& other) const;
};

struct WorkerClientSide {
  std::vector<worker::GreetingStep> steps;
  worker::Peer peer;
  std::vector<WorkerAsked> requests;
  bool complete = false; ///< the stream ended between requests

  bool operator==(const WorkerClientSide&) const = default;
};

/// Feeds `stream` in pieces of `cut` bytes.
WorkerClientSide
decode_worker_client(std::string_view stream, const Announcement& server, std::size_t cut);
std::string encode_worker_client(const Announcements& announced, const WorkerClientSide& side);

struct WorkerAnswer {
  std::vector<worker::LogMessage> log;
  std::optional<worker::Reply> reply; ///< nothing after a Failure
  std::string nar;                    ///< of NarFromPath

  bool operator==(const WorkerAnswer&) const = default;
};

struct WorkerServerSide {
  std::optional<worker::Welcome> welcome;
  WorkerAnswer greeting; ///< without a reply
  std::vector<WorkerAnswer> answers;
  bool complete = false;

  bool operator==(const WorkerServerSide&) const = default;
};

/// The requests decide what is expected.
WorkerServerSide decode_worker_server(std::string_view stream,
                                      const Announcement& client,
                                      const std::vector<WorkerAsked>& requests,
                                      std::size_t cut);
std::string encode_worker_server(const Announcements& announced, const WorkerServerSide& side);

/// The payload of AddMultipleToStore decoded and encoded again; throws where it is cut off.
std::string again_path_info_stream(std::string_view payload, std::size_t cut);

} // namespace nixbuild::test
