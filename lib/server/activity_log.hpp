#pragma once

#include "client_streams.hpp"
#include "graph_run.hpp"
#include "log_lines.hpp"
#include "told_log.hpp"

#include <nixbuild/protocol/worker.hpp>

#include <cstdint>
#include <memory>
#include <string>

namespace nixbuild::server {

/// Shows one build to a client of the worker protocol as an activity of its own: its lines as
/// results of the activity, so that the client can name, keep and colour them, and its phases.
/// Source: protocol facts 3.3.
class ActivityLog final : public BuildListener {
public:
  /// `last_id` is the connection's counter of activities. A failure's explanation has `tail_lines`.
  ActivityLog(std::shared_ptr<SharedWriter> out,
              protocol::worker::Peer peer,
              std::shared_ptr<std::uint64_t> last_id,
              std::string derivation,
              std::size_t tail_lines);

  aio::Task<void> begin() override;
  aio::Task<void> take_log(std::string bytes) override;
  aio::Task<void> end(const model::BuildResult& result) override;
  [[nodiscard]] std::string explanation(std::string_view derivation) const override;
  aio::Task<void> say_failure(std::string text) override;

private:
  void say(const protocol::worker::LogMessage& message);
  void say_line(std::string line);
  aio::Task<void> send();

  std::shared_ptr<SharedWriter> out_;
  protocol::worker::Peer peer_;
  std::shared_ptr<std::uint64_t> last_id_;
  std::string derivation_;
  std::uint64_t id_ = 0;
  LogLines lines_;
  LogTail tail_;
  std::string gathered_;
};

} // namespace nixbuild::server
