#include "protocol/worker_greeting.hpp"

#include "protocol/codecs.hpp"
#include "protocol/worker_tables.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace nixbuild::protocol::worker {

namespace {

constexpr Version kFeaturesSince{1, 38};
constexpr Version kTrustSince{1, 35};
constexpr Version kDaemonVersionSince{1, 33};

Features common(const Features& ours, const Features& theirs) {
  Features out;
  std::set_intersection(
      ours.begin(), ours.end(), theirs.begin(), theirs.end(), std::inserter(out, out.end()));
  return out;
}

Features read_features(Decoder& decoder) {
  decoder.enter("features");
  std::vector<std::string> names;
  wire::Texts::read(decoder, names);
  return {std::make_move_iterator(names.begin()), std::make_move_iterator(names.end())};
}

void append_features(std::string& out, const Features& features) {
  const model::StoreDir no_paths;
  Encoder encoder(out, no_paths, kNewestVersion);
  encoder.word(features.size());
  for (const auto& feature : features) {
    encoder.string(feature);
  }
}

Trust read_trust(Decoder& decoder) {
  decoder.enter("trust");
  const std::uint64_t number = decoder.word();
  if (number > static_cast<std::uint64_t>(Trust::NotTrusted)) {
    throw Error(
        Reaction::Reject, "worker.trust", fmt::format("{} says nothing about trust", number));
  }
  return static_cast<Trust>(number);
}

} // namespace

const Features& known_features() {
  static const Features features{std::string(kRealisationWithPath),
                                 std::string(kDeleteDeadSpecific)};
  return features;
}

Dialect dialect_of(const Peer& peer) noexcept {
  wire::FeatureBits bits = wire::kNoFeatures;
  for (const auto& feature : peer.features) {
    bits |= feature == kRealisationWithPath  ? wire::kRealisationsByPath
            : feature == kDeleteDeadSpecific ? wire::kGarbageScope
                                             : wire::kNoFeatures;
  }
  return {peer.version, peer.version < kFeaturesSince ? wire::kNoFeatures : bits};
}

ServerGreeting::ServerGreeting(Version own, Features features)
    : hello_(kWorkerHello, kClientMagic, own), features_(std::move(features)) {}

std::optional<GreetingStep> ServerGreeting::next(wire::Receiver& receiver) {
  switch (place_) {
  case Place::Magic:
    if (!hello_.magic(receiver)) {
      return std::nullopt;
    }
    place_ = Place::Hello;
    return GreetingStep::Hello;
  case Place::Hello: {
    const auto version = hello_.version(receiver);
    if (!version || !take_features(receiver, *version)) {
      return std::nullopt;
    }
    place_ = Place::Words;
    if (*version >= kFeaturesSince) {
      return GreetingStep::FeatureList;
    }
    return next(receiver);
  }
  case Place::Words:
    if (!take_words(receiver)) {
      return std::nullopt;
    }
    place_ = Place::Over;
    peer_ = std::move(agreed_);
    return GreetingStep::Welcome;
  case Place::Over:
    break;
  }
  return std::nullopt;
}

bool ServerGreeting::take_features(wire::Receiver& receiver, Version version) {
  agreed_ = {version, {}};
  if (version < kFeaturesSince) {
    return true;
  }
  const auto theirs = receiver.take(
      "greeting",
      version,
      [&](Shape& shape) { wire::Texts::shape(shape, "features", version); },
      read_features);
  if (!theirs) {
    return false;
  }
  agreed_.features = common(features_, *theirs);
  return true;
}

bool ServerGreeting::take_words(wire::Receiver& receiver) {
  const auto words = receiver.take(
      "obsolete words of the greeting",
      agreed_.version,
      [](Shape& shape) {
        shape.add(
            StepKind::WordOrSkip, "cpuAffinity", [&] { shape.add(StepKind::Word, "cpuAffinity"); });
        shape.add(StepKind::Word, "reserveSpace");
      },
      [](Decoder& decoder) {
        if (decoder.word() != 0) {
          static_cast<void>(decoder.word());
        }
        return decoder.word();
      });
  return words.has_value();
}

ClientGreeting::ClientGreeting(Version own, Features features)
    : hello_(kWorkerHello, kServerMagic, own), features_(std::move(features)) {}

std::optional<Version> ClientGreeting::version(wire::Receiver& receiver) {
  return hello_.version(receiver);
}

std::optional<Welcome> ClientGreeting::welcome(wire::Receiver& receiver) {
  const auto version = hello_.version(receiver);
  if (!version || peer_) {
    return std::nullopt;
  }
  auto out = receiver.take(
      "greeting",
      *version,
      [&](Shape& shape) {
        if (*version >= kFeaturesSince) {
          wire::Texts::shape(shape, "features", *version);
        }
        if (*version >= kDaemonVersionSince) {
          shape.add(StepKind::String, "daemonVersion");
        }
        if (*version >= kTrustSince) {
          shape.add(StepKind::Word, "trust");
        }
      },
      [&](Decoder& decoder) {
        Welcome read{{*version, {}}, {}, Trust::Unknown};
        if (*version >= kFeaturesSince) {
          read.peer.features = common(features_, read_features(decoder));
        }
        if (*version >= kDaemonVersionSince) {
          decoder.enter("daemonVersion");
          read.daemon_version = decoder.string();
        }
        if (*version >= kTrustSince) {
          read.trust = read_trust(decoder);
        }
        return read;
      });
  if (out) {
    peer_ = out->peer;
  }
  return out;
}

void write_hello(std::string& out, Version version) {
  wire::append_word(out, kServerMagic);
  wire::append_word(out, version.word());
}

void write_features(std::string& out, const Features& features) {
  append_features(out, features);
}

void write_welcome(std::string& out,
                   const Peer& peer,
                   std::string_view daemon_version,
                   Trust trust) {
  const model::StoreDir no_paths;
  Encoder encoder(out, no_paths, dialect_of(peer));
  if (peer.version >= kDaemonVersionSince) {
    encoder.string(daemon_version);
  }
  if (peer.version >= kTrustSince) {
    encoder.word(static_cast<std::uint64_t>(trust));
  }
}

void write_client_hello(std::string& out, Version version) {
  wire::append_word(out, kClientMagic);
  wire::append_word(out, version.word());
}

void write_client_greeting(std::string& out, Version agreed, const Features& features) {
  if (agreed >= kFeaturesSince) {
    append_features(out, features);
  }
  wire::append_word(out, 0);
  wire::append_word(out, 0);
}

} // namespace nixbuild::protocol::worker
