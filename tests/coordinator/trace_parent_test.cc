#include "coordinator/trace_parent.h"

#include <gtest/gtest.h>

#include <string>

namespace shardline::coordinator {
namespace {

// The example of W3C Trace Context, section 3.2.3.
const std::string kTrace = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kParent = "00f067aa0ba902b7";
const std::string kHeader = "00-" + kTrace + "-" + kParent + "-01";

TEST(TraceParentTest, ReadsWhatTheStandardShows) {
  const auto found = ParseTraceParent(kHeader);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->trace_id, kTrace);
  EXPECT_EQ(found->parent_id, kParent);
  EXPECT_TRUE(found->sampled);
  EXPECT_FALSE(ParseTraceParent("00-" + kTrace + "-" + kParent + "-00")->sampled);
  EXPECT_FALSE(ParseTraceParent("00-" + kTrace + "-" + kParent + "-fe")->sampled);
}

TEST(TraceParentTest, LaterVersionsMaySayMore) {
  EXPECT_TRUE(ParseTraceParent("01-" + kTrace + "-" + kParent + "-03").has_value());
  EXPECT_EQ(
      ParseTraceParent("cc-" + kTrace + "-" + kParent + "-01-what the future holds")->trace_id,
      kTrace);
  EXPECT_FALSE(ParseTraceParent("cc-" + kTrace + "-" + kParent + "-01.what").has_value());
}

TEST(TraceParentTest, DropsAllElse) {
  std::string upper = kHeader;
  upper[4] = 'B';
  for (const std::string& header :
       {std::string(), std::string("00"), upper, kHeader + "-", kHeader + "0",
        kHeader.substr(0, 54), "ff" + kHeader.substr(2), "0g" + kHeader.substr(2),
        "00-" + std::string(32, '0') + "-" + kParent + "-01",
        "00-" + kTrace + "-" + std::string(16, '0') + "-01", "00_" + kTrace + "-" + kParent + "-01",
        "00-" + kTrace + "-" + kParent + "-0\n", "00-" + kTrace.substr(1) + "\n-" + kParent + "-01",
        std::string(55, '-'), std::string(55, '\0'), std::string(4000, 'a')}) {
    EXPECT_FALSE(ParseTraceParent(header).has_value()) << header;
  }
}

}  // namespace
}  // namespace shardline::coordinator
