//! Where and at whom one pays.

pub(super) struct Place {
    pub city: &'static str,
    pub country: &'static str,
    pub currency: &'static str,
    pub lat: f64,
    pub lon: f64,
}

const fn place(city: &'static str, country: &'static str, currency: &'static str, lat: f64, lon: f64) -> Place {
    Place { city, country, currency, lat, lon }
}

/// The first dozen or so are where most cards are at home.
pub(super) const PLACES: [Place; 24] = [
    place("London", "GB", "GBP", 51.51, -0.13),
    place("Manchester", "GB", "GBP", 53.48, -2.24),
    place("Paris", "FR", "EUR", 48.86, 2.35),
    place("Lyon", "FR", "EUR", 45.76, 4.84),
    place("Berlin", "DE", "EUR", 52.52, 13.40),
    place("Munich", "DE", "EUR", 48.14, 11.58),
    place("Madrid", "ES", "EUR", 40.42, -3.70),
    place("Rome", "IT", "EUR", 41.90, 12.50),
    place("Amsterdam", "NL", "EUR", 52.37, 4.90),
    place("Warsaw", "PL", "PLN", 52.23, 21.01),
    place("Zurich", "CH", "CHF", 47.38, 8.54),
    place("Stockholm", "SE", "SEK", 59.33, 18.07),
    place("New York", "US", "USD", 40.71, -74.01),
    place("San Francisco", "US", "USD", 37.77, -122.42),
    place("Toronto", "CA", "CAD", 43.65, -79.38),
    place("Sao Paulo", "BR", "BRL", -23.55, -46.63),
    place("Lagos", "NG", "NGN", 6.52, 3.38),
    place("Johannesburg", "ZA", "ZAR", -26.20, 28.05),
    place("Dubai", "AE", "AED", 25.20, 55.27),
    place("Mumbai", "IN", "INR", 19.08, 72.88),
    place("Singapore", "SG", "SGD", 1.35, 103.82),
    place("Hong Kong", "HK", "HKD", 22.32, 114.17),
    place("Tokyo", "JP", "JPY", 35.68, 139.69),
    place("Sydney", "AU", "AUD", -33.87, 151.21),
];

/// How many of [`PLACES`] are home to cards.
pub(super) const HOMES: u64 = 12;

/// Kinds of merchants: merchant category code, name, typical amount in cents.
pub(super) const KINDS: [(i32, &str, f64); 12] = [
    (5411, "Grocery", 3200.0),
    (5812, "Restaurant", 2800.0),
    (5814, "Coffee", 650.0),
    (5541, "Fuel", 5200.0),
    (5912, "Pharmacy", 1800.0),
    (5651, "Clothing", 6500.0),
    (5732, "Electronics", 14000.0),
    (4111, "Transit", 420.0),
    (4121, "Taxi", 1700.0),
    (7011, "Hotel", 16000.0),
    (5999, "Online", 3600.0),
    (5816, "Games", 1100.0),
];

/// Merchant category code of transfers to people's accounts, which mules live on.
pub(super) const TRANSFER: i32 = 4829;
