//! Draws curves as an SVG of four panels.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (1000, 700);
const COLOURS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(214, 110, 20)];

pub struct Panel {
    pub what: &'static str,
    /// The label of the x axis.
    pub of: &'static str,
    pub logarithmic: bool,
    pub series: Vec<(&'static str, Vec<(f64, f64)>)>,
}

pub fn draw(to: &Path, panels: &[Panel; 4]) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let root = SVGBackend::new(to, SIZE).into_drawing_area();
    root.fill(&WHITE).unwrap();
    for (panel, area) in panels.iter().zip(root.split_evenly((2, 2))) {
        let across = panel.points().map(|(x, _)| x);
        let (from, end) = (across.clone().fold(f64::MAX, f64::min), across.fold(0.0, f64::max));
        if panel.logarithmic {
            panel.draw(&area, (from * 0.8..end * 1.25).log_scale());
        } else {
            panel.draw(&area, 0.0..end + 1.0);
        }
    }
    root.present().unwrap();
}

impl Panel {
    fn points(&self) -> impl Iterator<Item = (f64, f64)> + Clone {
        self.series.iter().flat_map(|(_, points)| points.iter().copied())
    }

    fn draw<X>(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, across: X)
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let top = self.points().map(|(_, y)| y).fold(0.0, f64::max) * 1.35;
        let mut chart = ChartBuilder::on(area)
            .caption(self.what, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(across, 0.0..top)
            .unwrap();
        let label = |x: &f64| super::said(*x as usize);
        chart
            .configure_mesh()
            .x_desc(self.of)
            .x_label_formatter(&label)
            .light_line_style(TRANSPARENT)
            .draw()
            .unwrap();
        for ((name, points), colour) in self.series.iter().zip(COLOURS) {
            let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3);
            let key = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2));
            chart.draw_series(line).unwrap().label(*name).legend(key);
        }
        if self.series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .border_style(TRANSPARENT)
                .background_style(WHITE.mix(0.8))
                .draw()
                .unwrap();
        }
    }
}
