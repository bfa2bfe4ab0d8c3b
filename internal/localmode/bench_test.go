package localmode

import (
	"fmt"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// BenchmarkReady measures the time from a request until the bastion is ready, and
// how much of it exceeds the delay of the cloud.
func BenchmarkReady(b *testing.B) {
	for _, delay := range []time.Duration{0, 2 * time.Second, 20 * time.Second} {
		b.Run(fmt.Sprintf("delay=%s", delay), func(b *testing.B) {
			defaults := Defaults()
			f := start(b, func(o *Options) { o.LaunchDelay, o.ReapEvery = delay, defaults.ReapEvery })
			key := sshclient.New(b).AddKey("ed25519")
			var ready time.Duration
			for b.Loop() {
				began := time.Now()
				s := f.create(request{body: key})
				ready += time.Since(began)
				b.StopTimer()
				f.do(request{method: "DELETE", path: "/bastions/" + s.ID})
				b.StartTimer()
			}
			mean := ready / time.Duration(b.N)
			b.ReportMetric(0, "ns/op") // removes ns/op; the seconds below replace it
			b.ReportMetric(mean.Seconds(), "s-to-ready")
			b.ReportMetric((mean - delay).Seconds(), "s-over-delay")
		})
	}
}
