#include "unit/protocol/worker_conversation.hpp"

#include "unit/protocol/pieces.hpp"

#include <nixbuild/nar/listing.hpp>
#include <nixbuild/nar/reader.hpp>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace nixbuild::test {

namespace {

const model::StoreDir kWorkerDir;
constexpr std::size_t kHelloBytes = 16;
constexpr protocol::Version kFeatures{1, 38};

/// The list of strings that begins at the front of `bytes`; an own reading, not the library's.
worker::Features listed(std::string_view bytes) {
  const auto word = [&] {
    std::uint64_t out = 0;
    for (std::size_t i = 8; i-- > 0;) {
      out = out << 8 | static_cast<unsigned char>(bytes.at(i));
    }
    bytes.remove_prefix(8);
    return static_cast<std::size_t>(out);
  };
  worker::Features out;
  for (std::size_t left = word(); left > 0; --left) {
    const std::size_t size = word();
    out.emplace(bytes.substr(0, size));
    bytes.remove_prefix((size + 7) / 8 * 8);
  }
  return out;
}

class ClientTaker {
public:
  ClientTaker(worker::RequestReader& reader, WorkerClientSide& out) : reader_(reader), out_(out) {}

  bool take() {
    if (frames_) {
      return take_frame();
    }
    if (!reader_.peer()) {
      const auto step = reader_.greeting();
      if (step) {
        out_.steps.push_back(*step);
      }
      return step.has_value();
    }
    auto request = reader_.next();
    if (!request) {
      return false;
    }
    switch (worker::payload_of(*request, *reader_.peer())) {
    case worker::Payload::None:
      break;
    case worker::Payload::Framed:
      frames_.emplace();
      break;
    case worker::Payload::Nar:
    case worker::Payload::Pulled:
      throw std::runtime_error("no recording is that old");
    }
    out_.requests.push_back({std::move(*request), {}});
    return true;
  }

  [[nodiscard]] bool at_boundary() const { return !frames_ && reader_.at_boundary(); }

private:
  bool take_frame() {
    const auto piece = frames_->read(reader_.raw());
    if (!piece.payload.empty()) {
      out_.requests.back().frames.emplace_back(text_of(piece.payload));
    }
    reader_.consume_raw(piece.used);
    const bool finished = frames_->finished();
    if (finished) {
      frames_.reset();
    }
    return finished || piece.used > 0;
  }

  worker::RequestReader& reader_;
  WorkerClientSide& out_;
  std::optional<protocol::FramedReader> frames_;
};

/// Reads the answers to a list of requests, one step at a time.
class AnswerTaker {
public:
  AnswerTaker(worker::ReplyReader& reader,
              const std::vector<WorkerAsked>& requests,
              WorkerServerSide& out)
      : reader_(reader), requests_(requests), out_(out) {}

  bool take() {
    if (!out_.welcome) {
      out_.welcome = reader_.read_welcome();
      return out_.welcome.has_value();
    }
    if (greeted_ && out_.answers.size() == requests_.size()) {
      return false;
    }
    return succeeded_ ? take_reply() : take_log();
  }

  [[nodiscard]] bool finished() const {
    return greeted_ && out_.answers.size() == requests_.size();
  }

private:
  bool take_log() {
    auto message = reader_.read_log();
    if (!message) {
      return false;
    }
    const bool last = std::holds_alternative<worker::Last>(*message);
    const bool failed = std::holds_alternative<worker::Failure>(*message);
    answer_.log.push_back(std::move(*message));
    if (!greeted_ && last) {
      out_.greeting = std::exchange(answer_, {});
      greeted_ = true;
    } else if (last) {
      succeeded_ = true;
    } else if (failed) {
      out_.answers.push_back(std::exchange(answer_, {}));
    }
    return true;
  }

  bool take_reply() {
    const auto& request = requests_[out_.answers.size()].request;
    if (std::holds_alternative<worker::NarFromPath>(request) && !take_nar()) {
      return false;
    }
    answer_.reply = reader_.read_reply(request);
    if (!answer_.reply) {
      return false;
    }
    out_.answers.push_back(std::exchange(answer_, {}));
    succeeded_ = false;
    return true;
  }

  bool take_nar() {
    if (!nar_) {
      nar_.emplace(listing_.emplace());
    }
    const ByteView raw = reader_.raw();
    const std::size_t used = nar_->feed(raw);
    answer_.nar += text_of(raw.first(used));
    reader_.consume_raw(used);
    const bool finished = nar_->finished();
    if (finished) {
      nar_.reset();
    }
    return finished;
  }

  worker::ReplyReader& reader_;
  const std::vector<WorkerAsked>& requests_;
  WorkerServerSide& out_;
  WorkerAnswer answer_;
  bool greeted_ = false;
  bool succeeded_ = false;
  std::optional<nar::Listing> listing_;
  std::optional<nar::Reader> nar_;
};

void encode_answer(std::string& out, const worker::Peer& peer, const WorkerAnswer& answer) {
  for (const auto& message : answer.log) {
    worker::write_log(out, peer, message);
  }
  if (answer.reply) {
    worker::write_reply(out, kWorkerDir, peer, *answer.reply);
  }
  out += answer.nar;
}

} // namespace

Announcements announcements(const Recording& recording) {
  Announcements out{{announced_version(recording.client), {}},
                    {announced_version(recording.server), {}}};
  if (std::min(out.client.version, out.server.version) >= kFeatures) {
    out.client.features = listed(std::string_view(recording.client).substr(kHelloBytes));
    out.server.features = listed(std::string_view(recording.server).substr(kHelloBytes));
  }
  return out;
}

std::string WorkerAsked::payload() const {
  std::string out;
  for (const auto& frame : frames) {
    out += frame;
  }
  return out;
}

bool WorkerAsked::operator==(const WorkerAsked& other) const {
  return request == other.request && payload() == other.payload();
}

WorkerClientSide
decode_worker_client(std::string_view stream, const Announcement& server, std::size_t cut) {
  WorkerClientSide out;
  worker::RequestReader reader(kWorkerDir, {}, server.version, server.features);
  ClientTaker taker(reader, out);
  feed_pieces(reader, stream, cut, [&] { return taker.take(); });
  out.peer = reader.peer().value_or(worker::Peer());
  out.complete = reader.peer().has_value() && taker.at_boundary();
  return out;
}

std::string encode_worker_client(const Announcements& announced, const WorkerClientSide& side) {
  std::string out;
  worker::write_client_hello(out, announced.client.version);
  worker::write_client_greeting(out, side.peer.version, announced.client.features);
  for (const auto& asked : side.requests) {
    worker::write_request(out, kWorkerDir, side.peer, asked.request);
    if (worker::payload_of(asked.request, side.peer) == worker::Payload::Framed) {
      for (const auto& frame : asked.frames) {
        protocol::write_frame(out, bytes_of(frame));
      }
      protocol::write_end_of_frames(out);
    }
  }
  return out;
}

WorkerServerSide decode_worker_server(std::string_view stream,
                                      const Announcement& client,
                                      const std::vector<WorkerAsked>& requests,
                                      std::size_t cut) {
  WorkerServerSide out;
  worker::ReplyReader reader(kWorkerDir, {}, client.version, client.features);
  AnswerTaker taker(reader, requests, out);
  feed_pieces(reader, stream, cut, [&] { return reader.read_hello() && taker.take(); });
  out.complete = taker.finished() && reader.at_boundary();
  return out;
}

std::string encode_worker_server(const Announcements& announced, const WorkerServerSide& side) {
  std::string out;
  const auto& welcome = side.welcome.value();
  worker::write_hello(out, announced.server.version);
  if (welcome.peer.version >= kFeatures) {
    worker::write_features(out, announced.server.features);
  }
  worker::write_welcome(out, welcome.peer, welcome.daemon_version, welcome.trust);
  encode_answer(out, welcome.peer, side.greeting);
  for (const auto& answer : side.answers) {
    encode_answer(out, welcome.peer, answer);
  }
  return out;
}

std::string again_path_info_stream(std::string_view payload, std::size_t cut) {
  std::string out;
  protocol::PathInfoStream stream(kWorkerDir);
  feed_pieces(stream, payload, cut, [&] {
    const ByteView nar = stream.nar();
    if (!nar.empty()) {
      out += text_of(nar);
      stream.consume_nar(nar.size());
      return true;
    }
    const auto item = stream.next();
    if (!item) {
      return false;
    }
    if (const auto* count = std::get_if<protocol::PathInfoStream::Count>(&*item)) {
      protocol::write_path_count(out, count->paths);
    } else if (const auto* info = std::get_if<model::PathInfo>(&*item)) {
      protocol::write_path_info(out, kWorkerDir, *info);
    }
    return true;
  });
  if (!stream.finished()) {
    throw std::runtime_error("the path info stream does not end where its frames do");
  }
  return out;
}

} // namespace nixbuild::test
