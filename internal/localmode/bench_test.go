package localmode

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkReady measures the time from a request to its answer that the bastion
// is ready, and how much of it is not the cloud's. More than a second is a
// failure.
func BenchmarkReady(b *testing.B) {
	for _, delay := range []time.Duration{0, 2 * time.Second, 20 * time.Second} {
		b.Run(fmt.Sprintf("delay=%s", delay), func(b *testing.B) {
			defaults := Defaults()
			r := start(b, func(o *Options) { o.LaunchDelay, o.ReapEvery = delay, defaults.ReapEvery })
			key := newWallet(b).add("ed25519")
			var ready, worst time.Duration
			for b.Loop() {
				began := time.Now()
				s := r.up(call{body: key, header: map[string]string{"Prefer": "wait=25"}})
				took := time.Since(began)
				ready, worst = ready+took, max(worst, took)
				b.StopTimer()
				r.do(call{method: "DELETE", path: "/bastions/" + s.ID})
				b.StartTimer()
			}
			mean := ready / time.Duration(b.N)
			b.ReportMetric(0, "ns/op") // not shown: seconds are
			b.ReportMetric(mean.Seconds(), "s-to-ready")
			b.ReportMetric((mean - delay).Seconds(), "s-over-delay")
			if worst > delay+time.Second {
				b.Errorf("ready after %s, want at most %s", worst, delay+time.Second)
			}
		})
	}
}
