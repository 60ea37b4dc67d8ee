#pragma once

#include <nixbuild/protocol/worker.hpp>

#include <string>
#include <vector>

/// Messages with every field set, as far as a peer can say it.
namespace nixbuild::test {

namespace worker = protocol::worker;

/// A store path of this name.
model::StorePath sample_path(const std::string& name);

struct Exchange {
  worker::Request request;
  std::vector<worker::Reply> replies; ///< that it can have
};

/// At least one of every request that the peer's version has.
std::vector<Exchange> sample_exchanges(const worker::Peer& peer);

/// At least one of every message that the peer's version has.
std::vector<worker::LogMessage> sample_log(const worker::Peer& peer);

/// Every version, and the newest with each set of features.
std::vector<worker::Peer> all_peers();

} // namespace nixbuild::test
