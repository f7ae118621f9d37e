package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	plotWidth  = 18 * vg.Centimeter
	plotHeight = 10 * vg.Centimeter
	barWidth   = 18 * vg.Millimeter
	plotMargin = 4 * vg.Millimeter // the last label of an axis stands half outside of the plot
)

func colors() []color.Color {
	return []color.Color{color.RGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 0xff}, color.RGBA{R: 0xd0, G: 0x6a, B: 0x1c, A: 0xff}, color.RGBA{R: 0x3a, G: 0x8f, B: 0x4d, A: 0xff}}
}

// draw writes the curve as SVG.
func (c *curve) draw(file string) (err error) {
	p := plot.New()
	sans(p)
	p.Title.Text = c.Title
	p.X.Label.Text, p.Y.Label.Text = c.X, c.Y
	p.BackgroundColor = color.White
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{Y: 0xe0}, color.Gray{Y: 0xe0}
	p.Add(grid)
	p.Title.Padding, p.Legend.Padding = 4*vg.Millimeter, 3*vg.Millimeter
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, 5*vg.Millimeter
	p.Y.Tick.Marker = shortTicks{plot.DefaultTicks{}}
	if c.labelled() {
		err = c.bars(p)
	} else {
		err = c.lines(p)
	}
	if err != nil {
		return err
	}
	if c.LogY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, shortTicks{plot.LogTicks{Prec: -1}}
		p.Y.Max *= 3 // room for the legend
	} else {
		p.Y.Min = 0
		p.Y.Max *= 1.3 // likewise
	}
	canvas := vgsvg.New(plotWidth, plotHeight)
	p.Draw(draw.Crop(draw.New(canvas), plotMargin, -plotMargin, plotMargin, -plotMargin))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	// Fonts of the same widths, for where the first is not installed.
	b := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	return os.WriteFile(file, b, 0o644)
}

func sans(p *plot.Plot) {
	for _, f := range []*font.Font{
		&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font,
		&p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font,
	} {
		f.Typeface, f.Variant = "Liberation", "Sans"
	}
}

func (c *curve) labelled() bool {
	return len(c.Series) > 0 && len(c.Series[0].Points) > 0 && c.Series[0].Points[0].Label != ""
}

// lines draws medians over a logarithmic x axis, with bars from the least to the
// greatest run.
func (c *curve) lines(p *plot.Plot) error {
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.ConstantTicks(c.places())
	for i, s := range c.Series {
		points := make(spread, 0, len(s.Points))
		for _, q := range s.Points {
			v := slices.Sorted(slices.Values(q.Values))
			points = append(points, spreadPoint{q.X, v[len(v)/2], v[len(v)/2] - v[0], v[len(v)-1] - v[len(v)/2]})
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		bars, err := plotter.NewYErrorBars(points)
		if err != nil {
			return err
		}
		color := colors()[i%len(colors())]
		line.Color, line.Width, dots.Color, dots.Shape, bars.Color = color, vg.Points(1.5), color, draw.CircleGlyph{}, color
		p.Add(line, dots, bars)
		p.Legend.Add(s.Name, line, dots)
	}
	return nil
}

// places marks where there are points.
func (c *curve) places() (ticks []plot.Tick) {
	for _, q := range c.Series[0].Points {
		ticks = append(ticks, plot.Tick{Value: q.X, Label: short(q.X)})
	}
	return ticks
}

func (c *curve) bars(p *plot.Plot) error {
	var labels []string
	for _, q := range c.Series[0].Points {
		labels = append(labels, q.Label)
	}
	width := barWidth / vg.Length(len(c.Series))
	for i, s := range c.Series {
		values := make(plotter.Values, 0, len(s.Points))
		for _, q := range s.Points {
			values = append(values, slices.Sorted(slices.Values(q.Values))[len(q.Values)/2])
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = colors()[i%len(colors())], 0
		bars.Offset = width * (vg.Length(i) - vg.Length(len(c.Series)-1)/2)
		p.Add(bars)
		p.Legend.Add(s.Name, bars)
	}
	p.NominalX(labels...)
	return nil
}

// spread is points with what lies below and above them.
type spread []spreadPoint

type spreadPoint struct{ x, y, below, above float64 }

// Len implements plotter.XYer.
func (s spread) Len() int { return len(s) }

// XY implements plotter.XYer.
func (s spread) XY(i int) (x, y float64) { return s[i].x, s[i].y }

// YError implements plotter.YErrorer.
func (s spread) YError(i int) (below, above float64) { return s[i].below, s[i].above }

// shortTicks writes 2,000,000 as 2 M.
type shortTicks struct{ of plot.Ticker }

// Ticks implements plot.Ticker.
func (t shortTicks) Ticks(least, most float64) []plot.Tick {
	ticks := t.of.Ticks(least, most)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = short(ticks[i].Value)
		}
	}
	return ticks
}

func short(v float64) string {
	switch {
	case v == 1<<20:
		return "1 Mi"
	case v >= 1e6:
		return fmt.Sprintf("%g M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%g k", v/1e3)
	default:
		return fmt.Sprintf("%g", v)
	}
}
