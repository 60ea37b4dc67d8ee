#pragma once

#include "protocol/hello.hpp"
#include "protocol/receiver.hpp"

#include <nixbuild/protocol/worker.hpp>

#include <optional>

/// The beginning of a worker connection. Source: protocol facts 3.1.
namespace nixbuild::protocol::worker {

class ServerGreeting {
public:
  ServerGreeting(Version own, Features features);

  /// As RequestReader::greeting. Errors: `worker.magic`, `worker.version`, `wire.*`.
  [[nodiscard]] std::optional<GreetingStep> next(wire::Receiver& receiver);

  [[nodiscard]] const std::optional<Peer>& peer() const noexcept { return peer_; }

  [[nodiscard]] bool in_progress() const noexcept {
    return place_ != Place::Magic && place_ != Place::Over;
  }

private:
  enum class Place { Magic, Hello, Words, Over };

  [[nodiscard]] bool take_features(wire::Receiver& receiver, Version version);
  [[nodiscard]] bool take_words(wire::Receiver& receiver);

  wire::HelloReader hello_;
  Features features_;
  Place place_ = Place::Magic;
  Peer agreed_;
  std::optional<Peer> peer_;
};

class ClientGreeting {
public:
  ClientGreeting(Version own, Features features);

  [[nodiscard]] std::optional<Version> version(wire::Receiver& receiver);
  /// Once. Error `worker.trust` besides those of the hello and the wire.
  [[nodiscard]] std::optional<Welcome> welcome(wire::Receiver& receiver);

  [[nodiscard]] const std::optional<Peer>& peer() const noexcept { return peer_; }

  [[nodiscard]] bool in_progress() const noexcept {
    return hello_.in_progress() || (hello_.agreed() && !peer_);
  }

private:
  wire::HelloReader hello_;
  Features features_;
  std::optional<Peer> peer_;
};

} // namespace nixbuild::protocol::worker
