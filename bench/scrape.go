package bench

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// cpuMetric is the processor time that Prometheus' process collector exports.
const cpuMetric = "process_cpu_seconds_total"

// scrapeTimes sums the brokers' processor time from their /metrics pages.
func scrapeTimes(ctx context.Context, urls []string) (sum time.Duration, err error) {
	for _, url := range urls {
		t, err := scrapeTime(ctx, url)
		if err != nil {
			return 0, fmt.Errorf("bench: processor time from %s: %w", url, err)
		}
		sum += t
	}
	return sum, nil
}

func scrapeTime(ctx context.Context, url string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("the answer is %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if name != cpuMetric {
			continue
		}
		seconds, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		return time.Duration(seconds * float64(time.Second)), nil
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("there is no %s", cpuMetric)
}
