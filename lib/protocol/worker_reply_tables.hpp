#pragma once

#include "protocol/worker_tables.hpp"

/// The worker protocol's replies as tables. Source: protocol facts 3.5.
namespace nixbuild::protocol::worker {

template <>
struct Layout<EmptyReply> {
  using Owner = EmptyReply;
  static constexpr std::tuple<> fields{};

  static Owner blank() { return {}; }
};

template <>
struct Layout<NumberReply> {
  using Owner = NumberReply;
  static constexpr auto fields = std::tuple{wire::field<wire::Number>("value", &Owner::value)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<PathReply> {
  using Owner = PathReply;
  static constexpr auto fields = std::tuple{wire::field<wire::Path>("path", &Owner::path)};

  static Owner blank() { return {wire::placeholder_path()}; }
};

template <>
struct Layout<OptionalPathReply> {
  using Owner = OptionalPathReply;
  static constexpr auto fields = std::tuple{wire::field<wire::OptionalPath>("path", &Owner::path)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<PathsReply> {
  using Owner = PathsReply;
  static constexpr auto fields = std::tuple{wire::field<wire::PathList>("paths", &Owner::paths)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<TextReply> {
  using Owner = TextReply;
  static constexpr auto fields = std::tuple{wire::field<wire::Text>("text", &Owner::text)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<TextsReply> {
  using Owner = TextsReply;
  static constexpr auto fields = std::tuple{wire::field<wire::Texts>("texts", &Owner::texts)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<PathInfoReply> {
  using Owner = PathInfoReply;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Group<wire::ValidPathInfoLayout>>("info", &Owner::info)};

  static Owner blank() { return {wire::blank_path_info()}; }
};

template <>
struct Layout<QueryPathInfoReply> {
  using Owner = QueryPathInfoReply;
  static constexpr auto fields = std::tuple{wire::field<OptionalPathFacts>("info", &Owner::info)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<RootsReply> {
  using Owner = RootsReply;
  static constexpr auto fields = std::tuple{wire::field<Roots>("roots", &Owner::roots)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<GarbageReply> {
  using Owner = GarbageReply;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Texts>("paths", &Owner::paths),
                 wire::field<wire::Number>("bytesFreed", &Owner::bytes_freed),
                 wire::field<Constant<0>>("obsolete", wire::Whole())};

  static Owner blank() { return {}; }
};

template <>
struct Layout<SubstitutableReply> {
  using Owner = SubstitutableReply;
  static constexpr auto fields =
      std::tuple{wire::field<OptionalSubstitutable>("info", &Owner::info)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<SubstitutablesReply> {
  using Owner = SubstitutablesReply;
  static constexpr auto fields = std::tuple{wire::field<SubstitutableMap>("infos", &Owner::infos)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<MissingReply> {
  using Owner = MissingReply;
  static constexpr auto fields =
      std::tuple{wire::field<wire::PathSet>("willBuild", &Owner::will_build),
                 wire::field<wire::PathSet>("willSubstitute", &Owner::will_substitute),
                 wire::field<wire::PathSet>("unknown", &Owner::unknown),
                 wire::field<wire::Number>("downloadSize", &Owner::download_size),
                 wire::field<wire::Number>("narSize", &Owner::nar_size)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<OutputMapReply> {
  using Owner = OutputMapReply;
  static constexpr auto fields = std::tuple{wire::field<OutputPathMap>("outputs", &Owner::outputs)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<BuildReply> {
  using Owner = BuildReply;
  static constexpr auto fields =
      std::tuple{wire::field<wire::Group<BuildResultLayout>>("result", wire::Whole())};

  static Owner blank() { return {}; }
};

template <>
struct Layout<BuildsReply> {
  using Owner = BuildsReply;
  static constexpr auto fields = std::tuple{wire::field<TargetResults>("results", &Owner::results)};

  static Owner blank() { return {}; }
};

template <>
struct Layout<RealisationsReply> {
  using Owner = RealisationsReply;
  static constexpr auto fields = std::tuple{
      wire::field<OptionalRealisation>("realisation", wire::Whole())
          .when(wire::kRealisationsByPath),
      wire::field<RealisationTexts>("realisations", wire::Whole(), Version{1, 31})
          .unless(wire::kRealisationsByPath),
      wire::field<RealisationPaths>("realisations", wire::Whole(), wire::kFirst, Version{1, 30})};

  static Owner blank() { return {}; }
};

/// One row per form of reply.
struct ReplyForm {
  std::string_view name;
  std::size_t index; ///< of its type in Reply
  void (*shape)(Shape&, const Dialect&);
  Reply (*read)(Decoder&);
};

template <class R>
constexpr ReplyForm reply_form(std::string_view name) {
  return {name, index_in<Reply, R>(), &wire::shape_fields<Layout<R>>, &read_alternative<Reply, R>};
}

inline constexpr std::array kReplyForms{
    reply_form<EmptyReply>("EmptyReply"),
    reply_form<NumberReply>("NumberReply"),
    reply_form<PathReply>("PathReply"),
    reply_form<OptionalPathReply>("OptionalPathReply"),
    reply_form<PathsReply>("PathsReply"),
    reply_form<TextReply>("TextReply"),
    reply_form<TextsReply>("TextsReply"),
    reply_form<PathInfoReply>("PathInfoReply"),
    reply_form<QueryPathInfoReply>("QueryPathInfoReply"),
    reply_form<RootsReply>("RootsReply"),
    reply_form<GarbageReply>("GarbageReply"),
    reply_form<SubstitutableReply>("SubstitutableReply"),
    reply_form<SubstitutablesReply>("SubstitutablesReply"),
    reply_form<MissingReply>("MissingReply"),
    reply_form<OutputMapReply>("OutputMapReply"),
    reply_form<BuildReply>("BuildReply"),
    reply_form<BuildsReply>("BuildsReply"),
    reply_form<RealisationsReply>("RealisationsReply"),
};

/// Row i belongs to alternative i of Reply.
constexpr bool rows_follow_replies() {
  for (std::size_t i = 0; i < kReplyForms.size(); ++i) {
    if (kReplyForms[i].index != i) {
      return false;
    }
  }
  return kReplyForms.size() == std::variant_size_v<Reply>;
}

static_assert(rows_follow_replies());

} // namespace nixbuild::protocol::worker
